"""The folder of a checkpoint: what belongs in it, what may be replaced, how it appears at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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

from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.layout import TensorSpec, shard_file
from dsv4.checkpoint.reader import INDEX_FILE
from dsv4.checkpoint.revision import as_written
from dsv4.config import Config

GENERATION_FILE = "generation_config.json"
OWN_FILES = ("config.json", GENERATION_FILE, INDEX_FILE)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
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
        raise CheckpointError(f"{out} already holds a checkpoint: choose another or overwrite it")


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
    (folder / "config.json").write_text(as_written(config, tensors).to_json(), encoding="utf-8")


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
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


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
