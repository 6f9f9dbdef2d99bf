"""The log of a run: a line of settings, then a line for each sample, in the order they end.

A line is written whole and at once; one that was cut by a kill is dropped when the run goes on.
The table follows from the log alone, sorted, so a run that was killed ends with the same one.
Prompts stay in the file: a hundred of a million tokens are more than a process should hold.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

FILE = "samples.jsonl"
Key = tuple[str, str, str]  # task, effort, sample
LONG = ("prompt", "pairs", "tools", "setup", "trace", "talk")  # what only the file holds


class LogError(ValueError):
    """A log that cannot be gone on with: the message says why, and the remedy."""


class Log:
    """`settings` must be those of the run that is gone on with; `rows` are its samples, without
    their prompts. One process at a time writes it. Raises LogError."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool):
        self.path = folder / FILE
        self.rows: dict[Key, dict[str, Any]] = {}
        if self.path.exists() and not resume:
            raise LogError(
                f"{self.path} is there already: --resume goes on with it, or name another --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        try:
            claim(self._file, self.path)
            known, self.rows, size = read(self.path)
            _compare(known, dict(settings), self.path)
            os.truncate(self.path, size)
            if not known:
                self._write(dict(settings))
        except BaseException:
            self._file.close()
            raise

    def add(self, row: dict[str, Any]) -> None:
        """One more sample."""
        self._write(row)
        self.rows[key_of(row)] = _short(row)

    def close(self) -> None:
        """Force it to disk."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(line(row))
        self._file.flush()


def claim(stream: BinaryIO, path: Path) -> None:
    """The log for this process alone, until the stream is closed. Raises LogError."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LogError(f"another run is writing {path}: wait for it, or name another --out") from (
            error
        )


def line(row: Mapping[str, Any]) -> bytes:
    """A row as the log holds it: ASCII, so that no text ends it."""
    return json.dumps(row).encode() + b"\n"


def key_of(row: Mapping[str, Any]) -> Key:
    """What tells samples apart."""
    return row["task"], row["effort"], row["sample"]


def read(path: Path) -> tuple[dict[str, Any], dict[Key, dict[str, Any]], int]:
    """Settings, samples without their prompts, and the bytes of the lines that are whole.

    Raises LogError."""
    settings: dict[str, Any] = {}
    rows: dict[Key, dict[str, Any]] = {}
    size = 0
    for number, (row, nbytes) in enumerate(_lines(path)):
        size += nbytes
        if number == 0:
            settings = row
        else:
            rows[key_of(row)] = _short(row)
    return settings, rows, size


def samples(path: Path) -> Iterator[dict[str, Any]]:
    """Every sample, whole, one after the other. Raises LogError."""
    for number, (row, _) in enumerate(_lines(path)):
        if number:
            yield row


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows of whole lines with their bytes; the first is that of the settings."""
    with path.open("rb") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.endswith(b"\n"):
                return
            try:
                row = dict(json.loads(text))
                if number > 1:
                    key_of(row)
            except (ValueError, KeyError, TypeError) as error:
                raise LogError(f"{path}, line {number}: no sample of a run ({error})") from error
            yield row, len(text)


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in LONG}


def _compare(known: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    for key in sorted(known.keys() | asked.keys()) if known else ():
        if known.get(key) != asked.get(key):
            raise LogError(
                f"{path} was begun with {key} = {known.get(key)!r}, not {asked.get(key)!r}: give "
                "the same options, or another --out"
            )
