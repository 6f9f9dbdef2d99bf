"""Folders of runs: what they must be, their text, `dsv4 export` and `dsv4 plot`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.streams import Counting, note, say
from dsv4.config import Config
from dsv4.recipes import NAMES, find
from dsv4.train.override import override
from dsv4.train.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

SIMPLE_ENGLISH = ("questions", "greetings")
DOCUMENTS, TOKENS = 270_000, 12_500_000  # of it, about
LETTERS = 1024  # for each id of its tokenizer; eight times as many shorten the text by 0.1%


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, at work or not.")],
    out: Annotated[
        Path | None, typer.Argument(help="Where to write.", show_default="RUN/model")
    ] = None,
) -> None:
    """Write the newest state of a run in the released layout."""
    from dsv4.train.checkpoints import Checkpoints
    from dsv4.train.pretrain import CHECKPOINTS

    saved = Checkpoints(run / CHECKPOINTS)
    if not saved.steps():
        raise FileNotFoundError(f"{run} holds no state of a run: name the folder of one")
    state, tensors = saved.newest_model(lambda line: note(f"note: {line}"))
    recipe = Recipe.from_dict(state["recipe"])
    config = Config.from_dict(state["config"])
    path = export(run, recipe, tensors, out, config)
    say(f"wrote {path}, the state after step {state['position']['step']}")


def plan_command(
    what: Annotated[str, typer.Argument(help=f"A recipe ({', '.join(NAMES)}, a file NAME.py).")],
    changes: Annotated[
        list[str] | None, typer.Argument(help='key=value: settings, such as mesh="dp=64 ep=64".')
    ] = None,
) -> None:
    """Print what a run would be: steps, parameters, memory, and on a mesh what each process holds
    and what a step moves."""
    recipe = override(find(what), changes or [])
    recipe.check()
    print_plan(recipe)


def print_plan(recipe: Recipe) -> None:
    """Print a plan, and what would stop it here."""
    from dsv4.train.memory import check_memory
    from dsv4.train.plan import described

    for line in described(recipe):
        say(line)
    try:
        check_memory(recipe)
    except ValueError as error:
        note(f"dsv4: {error}")


def plot_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("curves.png"),
    by: Annotated[str, typer.Option(help="What lies below: tokens or steps.")] = "tokens",
) -> None:
    """Draw the curves of one or several runs as a PNG."""
    from dsv4.train.plot import plot

    say(f"wrote {plot(runs, out, by=by)}")


def export(
    run: Path,
    recipe: Recipe,
    state: Mapping[str, Tensor],
    out: Path | None = None,
    config: Config | None = None,
) -> Path:
    """Write a model in the released layout, with the tokenizer of its text."""
    from dsv4.checkpoint.official import save

    path, files = out or run / "model", tokenizer_files(run, recipe)
    try:
        return save(
            state, config or recipe.model_config, path, tokenizer_files=files, overwrite=True
        )
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror or error})") from error


def tokenizer_files(run: Path, recipe: Recipe) -> list[Path]:
    """The tokenizer of a run's text: beside it, or beside its folder. Raises FileNotFoundError."""
    from dsv4.checkpoint.folder import TOKENIZER_FILES

    folder = Path(recipe.text[0].folder) if recipe.text else run / "data"
    for place in (folder, folder.parent):
        files = [place / name for name in TOKENIZER_FILES]
        if all(file.is_file() for file in files):
            return files
    raise FileNotFoundError(f"there is no tokenizer.json in {folder}: put the text's there")


def check_folder(out: Path) -> None:
    """Raises ValueError where a file, or a folder of something else, is in the run's way."""
    from dsv4.checkpoint.folder import check_target
    from dsv4.train.pretrain import CHECKPOINTS, METRICS_FILE

    for folder in (out, out / "data", out / "model", out / CHECKPOINTS):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name another folder for the run")
    metrics = out / METRICS_FILE
    if metrics.exists() and not metrics.is_file():
        raise ValueError(f"{metrics} is no regular file: remove it, or name another folder")
    check_target(out / "model", overwrite=True)


def check_writable(out: Path) -> None:
    """Make the folder. Raises OSError, naming it, if nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"{out} cannot hold a run ({error.strerror}): name another folder") from error


def prepare(
    folder: Path, config: Config, tokens: int | None = None, *, going_on: bool = False
) -> Path:
    """Tokenizer and token files of simple English in `folder`: all of it, or what is enough for a
    run of so many tokens. Made unless they are there already; for a run that is going on, what is
    missing of them.

    Raises: CorpusError, WriteError; what was interrupted goes on the next time.
    """
    from dsv4.data.augment import Augment
    from dsv4.data.build import build, input_of, is_built, one_in, thinned
    from dsv4.data.sources import chosen
    from dsv4.data.sources.fetch import fetch

    every, held = _one_in(tokens, config.vocab_size), one_in(folder)
    if held and (going_on or held < every):
        every = held
    if held == every and is_built(folder):
        return folder
    begun = time.monotonic()
    part = f"one in {every} of " if every > 1 else ""
    say(
        f"first the text, which no minutes count: simple English, {part}about {DOCUMENTS:,} "
        f"documents, is prepared in {folder}"
    )
    inputs = [input_of(fetch(package, say=say)) for package in chosen(list(SIMPLE_ENGLISH))]
    files = build(
        [thinned(one, every) for one in inputs] if every > 1 else inputs,
        folder,
        vocab_size=config.vocab_size,
        context=config.max_position_embeddings,
        augment=Augment(),
        letters=LETTERS * config.vocab_size,
        workers=os.cpu_count() or 1,
        say=say,
        progress=Counting(say),
    )
    tokens = sum(parts["train"].header.tokens for parts in files.values())
    seconds = time.monotonic() - begun
    say(f"{tokens:,} training tokens in {folder}, after {seconds:.0f} s")
    return folder


def _one_in(tokens: int | None, vocab_size: int) -> int:
    """One document in how many gives twice so many tokens, and enough for a tokenizer."""
    if tokens is None:
        return 1
    wanted = max(2 * tokens, LETTERS // 8 * vocab_size)
    return 1 << max(0, (TOKENS // wanted).bit_length() - 1)
