"""`dsv4 eval`: tasks and suites, asked of a checkpoint or a URL, as the release's tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.loading import Dtype, MaxResident, Mode
from dsv4.cli.options import Revision, Threads
from dsv4.cli.scores import grade_anew, progress, report, show_rows
from dsv4.cli.subjects import KEY, Loads, subject_of
from dsv4.protocol.effort import EFFORT_WORDS, resolve_effort

if TYPE_CHECKING:
    from dsv4.eval.run import Plan
    from dsv4.eval.subject import Subject
    from dsv4.eval.suites import Suite


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
    from dsv4.eval.run import Plan
    from dsv4.eval.suites import suite_of

    if show:
        show_rows()
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
        grade_anew(out)
    else:
        loads = Loads(dtype, mode, max_resident, threads, revision)
        subject = subject_of(model, name, api_key, loads)
        settings: dict[str, Any] = {"model": subject.name, "suites": suites, "limit": limit}
        settings |= {"seed": seed, "effort": effort, "temperature": temperature, "data": files}
        tasks = [task for task in chosen.tasks if task.name not in chosen.notes]
        plan = Plan(tasks, limit, seed, concurrency, temperature)
        _ask(plan, subject, chosen, out, settings, resume=resume)
    report(out, chosen, seed, prices, plot)


def _ask(
    plan: Plan,
    subject: Subject,
    chosen: Suite,
    out: Path,
    settings: dict[str, Any],
    *,
    resume: bool,
) -> None:
    """Run what is planned; `chosen` learns what the subject is too small for."""
    from dsv4.eval import run
    from dsv4.eval.log import Log

    try:
        log = Log(out, settings, resume=resume)
        try:
            with progress() as tell:
                run.run(plan, subject, log, tell)
        finally:
            log.close()
        for task in plan.tasks:
            if why := run.too_small(task, subject):
                chosen.notes[task.name] = why
    finally:
        subject.close()


def _pair(text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    if not name or not source:
        raise ValueError(f"--data {text}: must be TASK=FILE or TASK=DATASET-ID")
    return name, source
