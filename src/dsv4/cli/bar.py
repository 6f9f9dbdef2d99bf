"""A run in a terminal: a bar that stays in its place, and what happens above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from dsv4.cli.streams import visible
from dsv4.train.progress import line


class Bar:
    """A `train.progress.Progress`."""

    def __init__(self, console: Console | None = None) -> None:
        text = TextColumn("{task.description}", markup=False)
        self._bar = Progress(BarColumn(bar_width=20), text, console=console, transient=True)
        self._task = self._bar.add_task("beginning", total=None)
        self._bar.start()

    def show(self, row: Mapping[str, Any], tokens: int) -> None:
        """Move the bar; a step that was evaluated stays as a line."""
        if "event" in row:
            return
        said = line(row, tokens)
        if "validation_loss" in row:
            self.note(said)
        self._bar.update(self._task, total=tokens, completed=row["tokens"], description=said)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
