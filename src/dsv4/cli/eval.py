"""`dsv4 eval`: tasks and suites, asked of a checkpoint or a URL, as the release's tables."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from dsv4.cli import scores
from dsv4.cli.loading import Dtype, MaxResident, Mode
from dsv4.cli.options import Revision, Threads
from dsv4.cli.subjects import KEY, Loads, judge_of, subject_of
from dsv4.protocol.effort import EFFORT_WORDS, resolve_effort

Model = Annotated[str, typer.Argument(help="A checkpoint folder, nano, or the URL of a server.")]
SuiteNames = Annotated[
    list[str] | None,
    typer.Option(
        help="smoke, base, instruct, modes, generated or a task's name; may be repeated.",
        show_default="smoke",
    ),
]
Show = Annotated[bool, typer.Option("--list", help="Say of every row how it runs.")]
Out = Annotated[Path, typer.Option(help="Folder of the log and the table.")]
Limit = Annotated[int | None, typer.Option(help="Samples of each task.", min=1)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the log in --out.")]
Regrade = Annotated[
    bool, typer.Option("--regrade", help="Grade the log in --out anew; nothing is generated.")
]
Effort = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(EFFORT_WORDS)}.", show_default="none; modes: all three"),
]
Data = Annotated[
    list[str] | None,
    typer.Option(help="TASK=FILE or TASK=DATASET-ID: its questions; may be repeated."),
]
Hub = Annotated[
    bool, typer.Option("--hub", help="Rows that lm-eval defines load their data from the hub.")
]
Include = Annotated[
    Path | None, typer.Option(help="A folder of lm-eval's definitions, for lm-eval:NAME.")
]
JudgeName = Annotated[
    str | None,
    typer.Option("--judge", help="A server's URL or a checkpoint that marks what rules cannot."),
]
JudgeModel = Annotated[str | None, typer.Option(help="The judge's name at its server.")]
Tools = Annotated[
    str | None, typer.Option(help="FILE.py:NAME, a function that gives agents their tools.")
]
Seed = Annotated[
    int | None, typer.Option(help="Of samples and of replies.", min=0, show_default="0")
]
Temperature = Annotated[
    float | None, typer.Option(help="Of all replies.", show_default="each task's", min=0.0)
]
Concurrency = Annotated[int, typer.Option(help="Samples at once.", min=1, max=1024)]
Name = Annotated[str | None, typer.Option("--model", help="The model's name at the server.")]
ApiKey = Annotated[
    str | None, typer.Option(help=f"The server's; better in the environment, as {KEY}.")
]
PriceHit = Annotated[float, typer.Option(help="Of a million known prompt tokens.", min=0.0)]
PriceMiss = Annotated[float, typer.Option(help="Of a million new prompt tokens.", min=0.0)]
PriceOut = Annotated[float, typer.Option(help="Of a million tokens of replies.", min=0.0)]
Plot = Annotated[Path | None, typer.Option(help="Draw bars into this PNG file.")]


def evaluate(
    model: Model = "nano",
    suite: SuiteNames = None,
    show: Show = False,
    out: Out = Path("eval"),
    limit: Limit = None,
    resume: Resume = False,
    regrade: Regrade = False,
    effort: Effort = None,
    data: Data = None,
    hub: Hub = False,
    include: Include = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    tools: Tools = None,
    seed: Seed = None,
    temperature: Temperature = None,
    concurrency: Concurrency = 8,
    name: Name = None,
    api_key: ApiKey = None,
    price_hit: PriceHit = 0.0,
    price_miss: PriceMiss = 0.0,
    price_out: PriceOut = 0.0,
    plot: Plot = None,
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

    if show:
        scores.show_rows()
        return
    resolve_effort(effort)
    if resume and regrade:
        raise ValueError("--regrade asks nobody and --resume goes on asking: one after the other")
    if plot is not None and not plot.parent.is_dir():
        raise ValueError(f"--plot {plot}: there is no folder {plot.parent}")
    loads = Loads(dtype, mode, max_resident, threads, revision)
    asked: dict[str, Any] = {"suites": suite, "limit": limit, "seed": seed, "effort": effort}
    asked |= {"temperature": temperature, "data": dict(_pair(one) for one in data or ())}
    asked |= {"hub": hub, "include": None if include is None else str(include.resolve())}
    asked |= {"judge": judge, "tools": tools}
    if regrade:
        given = {key: value for key, value in asked.items() if key != "judge"}
        scores.agree(out, {k: v for k, v in given.items() if v not in (None, {}, False)})
        with judge_of(judge, judge_model) as marker:
            rows = scores.grade_anew(out, marker, concurrency)
    else:
        asked |= {"suites": suite or ["smoke"], "seed": seed or 0}
        rows = scores.Chosen(**asked).suite()
        with (
            judge_of(judge, judge_model) as marker,
            closing(subject_of(model, name, api_key, loads)) as subject,
        ):
            chosen = scores.Chosen(**asked | {"judge": marker and marker.name})
            told: dict[str, Any] = {"resume": resume, "concurrency": concurrency}
            scores.ask_all(chosen, rows, subject, marker, out, **told)
    scores.report(rows, out, Prices(price_hit, price_miss, price_out), plot)


def _pair(text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    if not name or not source:
        raise ValueError(f"--data {text}: must be TASK=FILE or TASK=DATASET-ID")
    return name, source
