"""A run in a terminal: a bar that stays in its place, and what happens above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from dsv4.cli.streams import visible
from dsv4.train.progress import duration, line


class Bar:
    """A `train.progress.Progress`."""

    def __init__(self, console: Console | None = None) -> None:
        one_line = Column(no_wrap=True, overflow="ellipsis")
        text = TextColumn("{task.description}", markup=False, table_column=one_line)
        self._bar = Progress(BarColumn(bar_width=12), text, console=console, transient=True)
        self._task = self._bar.add_task("beginning", total=None)
        self._bar.start()

    def show(self, row: Mapping[str, Any], tokens: int) -> None:
        """Move the bar; a step that was evaluated stays as a line."""
        if "event" in row:
            return
        if "validation_loss" in row:
            self.note(line(row, tokens))
        self._bar.update(self._task, total=tokens, completed=row["tokens"], description=_now(row))

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def _now(row: Mapping[str, Any]) -> str:
    """Short enough to leave the bar some room: `step 11  loss 3.900  2,000 tokens/s (40%)  …`."""
    load = f"  load {row['expert_load']:.1f}×" if "expert_load" in row else ""
    return (
        f"step {row['step']}  loss {row['loss']:.3f}  {row['tokens_per_s']:,.0f} tokens/s "
        f"({row['mfu']:.0%}){load}  {row['memory'] / 2**30:.1f} GiB  "
        f"{duration(row['seconds_left'])}"
    )
