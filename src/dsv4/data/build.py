"""Sources → a folder of prepared data: fetched, read, one tokenizer for all, token files, a notice.

Every step keeps what stands: the same call goes on where it was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path

from dsv4.atomic import replacing
from dsv4.data import bpe
from dsv4.data.augment import Augment
from dsv4.data.document import Document
from dsv4.data.errors import DataError
from dsv4.data.prepared import MIXTURE_FILE, read_limits, write_mixture
from dsv4.data.readers import OnBad, read
from dsv4.data.sources.fetch import Fetched
from dsv4.data.tokenise import PARTS, tokenise
from dsv4.data.tokens import TokenFile, read_index
from dsv4.tokenizer import Tokenizer

NOTICE_FILE = "NOTICE"
ONE_IN = ", one document in "
Say = Callable[[str], None]


@dataclass(frozen=True)
class Input:
    """Documents under a name; `identity` changes when they do. `notice` is what is owed to them,
    `repeat` how often their tokens come while another source is read once."""

    name: str
    documents: Callable[[], Iterator[Document]]
    identity: str
    notice: str
    repeat: float = 1.0


def input_of(fetched: Fetched) -> Input:
    """A source of the manifest."""
    package = fetched.package
    named = f"{package.package} {package.version}" if package.package else "dsv4 or this machine"
    if not fetched.pinned:
        named = f"{package.package} ({fetched.path.name}, not the version that was pinned)"
    notice = f"{package.name}: {package.what}; {named}; licence: {package.licence}"
    identity = f"{package.name} {fetched.sha256} dsv4 {version('dsv4')}"
    return Input(
        package.name,
        lambda: package.documents(fetched.path),
        identity,
        f"{notice}; sha256: {fetched.sha256}" if fetched.sha256 else notice,
        package.repeat,
    )


def thinned(one: Input, every: int) -> Input:
    """One document in so many of an input. They are read once, and kept in memory."""
    kept: list[Document] = []

    def documents() -> Iterator[Document]:
        if not kept:
            kept.extend(islice(one.documents(), 0, None, every))
        return iter(kept)

    return replace(one, documents=documents, identity=f"{one.identity}{ONE_IN}{every}")


def one_in(folder: Path) -> int:
    """One in how many documents the data in a folder was made of, as far as its files can be read;
    0 where none can."""
    found = 0
    for name in _named(folder):
        with suppress(DataError, KeyError, ValueError):
            made = read_index(folder / name, "train")[0].made["source"]
            _, thin, every = str(made).rpartition(ONE_IN)
            found = max(found, int(every) if thin else 1)
    return found


def is_built(folder: Path) -> bool:
    """Whether every file of a folder is there, of the length that its index says."""
    names = _named(folder)
    try:
        return bool(names) and all(
            TokenFile(folder / name, part) for name in names for part in PARTS
        )
    except DataError:
        return False


def _named(folder: Path) -> list[str]:
    """The sources of a folder."""
    try:
        return list(read_limits(folder))
    except DataError:
        return []


def own_text(
    name: str, files: Sequence[Path], *, field: str = "text", on_bad: OnBad | None = None
) -> Input:
    """A user's own files."""
    known = hashlib.sha256(field.encode())
    for file in files:
        state = file.stat()
        known.update(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    notice = f"{name}: own files ({len(files)})"
    return Input(
        name, lambda: read(files, field=field, on_bad=on_bad), f"{name} {known.hexdigest()}", notice
    )


def build(
    inputs: Sequence[Input],
    folder: Path,
    *,
    vocab_size: int,
    context: int,
    augment: Augment,
    letters: int = bpe.SAMPLE,
    workers: int = 1,
    say: Say = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda name, documents, tokens: None,
) -> dict[str, dict[str, TokenFile]]:
    """Prepare the inputs in `folder`; the token files of each. A tokenizer.json that is there is
    used as it is, else one of `vocab_size` is trained on at most so many `letters`.

    Raises: CorpusError, DataError, WriteError; what stands is gone on with.
    """
    names = [one.name for one in inputs]
    if not inputs or len(set(names)) < len(names):
        raise DataError("data needs sources, each under a name of its own")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / bpe.TOKENIZER_FILE
    if not tokenizer.is_file():
        say(f"training a tokenizer of {vocab_size:,} ids")
        every = chain.from_iterable(one.documents() for one in inputs)
        sample = bpe.sample(every, letters)
        bpe.save_bpe(bpe.train_bpe(sample, vocab_size), folder, context)
    Tokenizer.load(tokenizer).check_fits(vocab_size)
    made = {}
    for one in inputs:
        made[one.name] = tokenise(
            one.documents(),
            tokenizer,
            folder / one.name,
            source=one.identity,
            augment=augment,
            workers=workers,
            say=partial(progress, one.name),
        )
    with replacing(folder / NOTICE_FILE) as stream:
        lines = ["The text that this data was made of, and its licences:", ""]
        stream.write("\n".join([*lines, *(one.notice for one in inputs), ""]).encode())
    known = read_limits(folder) if (folder / MIXTURE_FILE).is_file() else {}
    limits = {one.name: _limits(one, made[one.name]["train"]) for one in inputs}
    write_mixture(folder, {name: known.get(name, own) for name, own in limits.items()})
    return made


def _limits(one: Input, file: TokenFile) -> dict[str, float | None]:
    tokens = file.header.tokens
    return {"weight": None if one.repeat == 1 or not tokens else round(one.repeat * tokens)}
