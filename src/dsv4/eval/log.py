"""The log of a run: a line of settings, then a line for each sample, in the order they end.

A line is written whole and at once; one that was cut by a kill is dropped when the run goes on.
The table follows from the log alone, sorted, so a run that was killed ends with the same one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "samples.jsonl"
Key = tuple[str, str, str]  # task, effort, sample


class LogError(ValueError):
    """A log that cannot be gone on with: the message says why, and the remedy."""


class Log:
    """`settings` must be those of the run that is gone on with; `rows` are its samples."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool):
        self.path = folder / FILE
        self.rows: dict[Key, dict[str, Any]] = {}
        if self.path.exists() and not resume:
            raise LogError(
                f"{self.path} is there already: --resume goes on with it, or name another --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            known, rows, size = read(self.path)
            _compare(known, dict(settings), self.path)
            self.rows = rows
            os.truncate(self.path, size)
            self._file = self.path.open("ab")
            if not known:
                self._write(dict(settings))
        else:
            self._file = self.path.open("ab")
            self._write(dict(settings))

    def add(self, row: dict[str, Any]) -> None:
        """One more sample."""
        self._write(row)
        self.rows[key_of(row)] = row

    def close(self) -> None:
        """Force it to disk."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(line(row))
        self._file.flush()


def line(row: Mapping[str, Any]) -> bytes:
    """A row as the log holds it: ASCII, so that no text ends it."""
    return json.dumps(row).encode() + b"\n"


def key_of(row: Mapping[str, Any]) -> Key:
    """What tells samples apart."""
    return row["task"], row["effort"], row["sample"]


def read(path: Path) -> tuple[dict[str, Any], dict[Key, dict[str, Any]], int]:
    """Settings, samples, and the bytes of the lines that are whole. Raises LogError."""
    data = path.read_bytes()
    size = data.rfind(b"\n") + 1
    rows: dict[Key, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    for number, text in enumerate(data[:size].splitlines(), start=1):
        try:
            row = json.loads(text)
            if number == 1:
                settings = dict(row)
            else:
                rows[key_of(row)] = row
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(f"{path}, line {number}: no sample of a run ({error})") from error
    return settings, rows, size


def _compare(known: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    for key in sorted(known.keys() | asked.keys()) if known else ():
        if known.get(key) != asked.get(key):
            raise LogError(
                f"{path} was begun with {key} = {known.get(key)!r}, not {asked.get(key)!r}: give "
                "the same options, or another --out"
            )
