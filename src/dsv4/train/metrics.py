"""metrics.jsonl: one JSON object for each step, in order, no step twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dsv4.atomic import replacing, write_error


class Metrics:
    """The metrics of one run; `steps_done` says where the run stands when it begins."""

    def __init__(self, file: Path, steps_done: int):
        """Drop what a run that was killed wrote after the state it goes on from, and a torn line.

        Raises: WriteError; then the file is what it was.
        """
        self.file = file
        if not file.exists():
            return
        before = file.read_bytes()
        kept = b"".join(
            line for line in before.splitlines(keepends=True) if _step(line) <= steps_done
        )
        if kept != before:
            with replacing(file) as stream:
                stream.write(kept)

    def append(self, row: dict[str, Any]) -> None:
        """Write one row. Raises WriteError; then the file is what it was."""
        data = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            with self.file.open("ab", buffering=0) as stream:
                held = stream.seek(0, os.SEEK_END)
                try:
                    while data:  # what does not fit is cut short, and only then refused
                        data = data[stream.write(data) :]
                except OSError:
                    stream.truncate(held)  # no half a line
                    raise
        except OSError as error:
            raise write_error(self.file, error) from error


def _step(line: bytes) -> float:
    """The step of a whole row; infinity for anything else."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        row = None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else float("inf")
