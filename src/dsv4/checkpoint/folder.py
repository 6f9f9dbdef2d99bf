"""The folder of a checkpoint: what belongs in it, what may be replaced, how it appears at once.

.OUT.saving or .OUT.converting    beside the target while it is written, one writer at a time
    lock · new/ (what is written) · old/ (what was there, during the two moves of `publish`)
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dsv4.atomic import whole
from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.layout import TensorSpec, shard_file
from dsv4.checkpoint.reader import INDEX_FILE
from dsv4.checkpoint.revision import as_written
from dsv4.config import Config
from dsv4.files import size_text

GENERATION_FILE = "generation_config.json"
OWN_FILES = ("config.json", GENERATION_FILE, INDEX_FILE)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
LOCK_FILE = "lock"
LARGE = 1 << 28  # bytes from which reading and writing show their progress


def check_target(out: Path, overwrite: bool) -> None:
    """Only nothing, an empty folder or, with `overwrite`, a checkpoint may be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise CheckpointError(f"{out} is a file: choose a folder for the checkpoint")
    held = sorted(file.name for file in out.iterdir())
    foreign = [name for name in held if not is_own(name)]
    if foreign:
        raise CheckpointError(
            f"{out} holds {', '.join(foreign[:3])}, no part of a checkpoint: choose another folder"
        )
    if held and not overwrite:
        raise CheckpointError(
            f"{out} already holds a checkpoint: choose another folder, or --overwrite it"
        )


@contextmanager
def claimed(workspace: Path, what: str) -> Iterator[None]:
    """The workspace for this writer alone, with the parents that it needs.

    Parents that were made for it and hold nothing at the end are taken away again.
    Raises: CheckpointError if another process is at work in it.
    """
    made = [parent for parent in workspace.parents if not parent.exists()]
    workspace.mkdir(parents=True, exist_ok=True)
    try:
        with (workspace / LOCK_FILE).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CheckpointError(f"another {what} is at work in {workspace}") from error
            yield
    finally:
        for parent in made:
            with suppress(OSError):  # it holds something now
                parent.rmdir()


def recover(workspace: Path, out: Path) -> None:
    """Clear what an interrupted writer left; a checkpoint that it had moved aside goes back."""
    old = workspace / "old"
    if old.exists() and not out.exists():
        old.rename(out)
    for left in (old, workspace / "new"):
        shutil.rmtree(left, ignore_errors=True)


def check_room(folder: Path, needed: int) -> None:
    """Raises CheckpointError unless the disk of `folder` has `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder} needs {size_text(needed)} more, {size_text(free)} are free: make room or "
            "choose another disk"
        )


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Say of what the system refuses while `out` is written that `out` is as it was."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        full = "make room, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise CheckpointError(
            f"{out} could not be written and is as it was: {os.strerror(error.errno)}{where}; "
            f"{full}choose another place"
        ) from error


def is_own(name: str) -> bool:
    """Whether a checkpoint folder holds files of this name."""
    return name in (*OWN_FILES, *TOKENIZER_FILES) or name.endswith(".safetensors")


def publish(new: Path, out: Path, *, aside: Path) -> None:
    """Move the finished folder to its place; what was there steps aside, and back on failure."""
    try:
        if out.exists():
            out.rename(aside)
        new.rename(out)
    except BaseException:  # Ctrl-C between the two moves must not lose the old checkpoint
        if aside.exists():
            aside.rename(out)
        raise


def write_index(folder: Path, tensors: Mapping[str, TensorSpec]) -> None:
    """The index over the shards of `tensors`."""
    count = 1 + max(spec.shard for spec in tensors.values())
    places = {name: shard_file(spec.shard, count) for name, spec in sorted(tensors.items())}
    total = sum(spec.nbytes for spec in tensors.values())
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": places})


def write_config(folder: Path, config: Config, tensors: Iterable[str]) -> None:
    """config.json of a checkpoint that holds these tensors."""
    _write_text(folder / "config.json", as_written(config, tensors).to_json())


def write_generation_config(folder: Path, config: Config) -> None:
    """The release's advice: sample at temperature 1.0 and top_p 1.0."""
    values = {
        "_from_model_config": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "transformers_version": config.transformers_version,
    }
    write_json(folder / GENERATION_FILE, values)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """The object as a text file, there at once or not at all."""
    _write_text(file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _write_text(file: Path, text: str) -> None:
    with whole(file) as stream:
        stream.write(text.encode("utf-8"))


class Advance(Protocol):
    """Counts bytes as moved."""

    def __call__(self, nbytes: int) -> None: ...


@contextmanager
def progress(text: str, nbytes: int) -> Iterator[Advance]:
    """A progress bar on stderr where there is much to move; the value counts bytes on it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=nbytes < LARGE, transient=True) as bar:
        task = bar.add_task(text, total=nbytes)

        def advance(nbytes: int) -> None:
            bar.advance(task, nbytes)

        yield advance
