"""A log → rows: means with bootstrap intervals, shares of what was no answer, tokens, cost.

interval: the 2.5% and 97.5% quantiles of the means of resampled scores (1,000 times, seed 0)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsv4.atomic import replacing
from dsv4.cost.price import MILLION, Prices
from dsv4.eval.log import Key
from dsv4.eval.task import Task

RESAMPLED = 1_000
SHARES = ("cut", "unparsed", "refused", "failed")


@dataclass(frozen=True)
class Row:
    """Of one task at one effort. `score`, `low` and `high` are scaled as tables have them; None
    where nothing was run, and `note` says why."""

    task: str
    title: str
    metric: str
    shots: int
    effort: str
    samples: int
    score: float | None
    low: float | None
    high: float | None
    chance: float
    shares: Mapping[str, float]
    tokens: Mapping[str, int]
    cost: float
    prompts: str  # the hash of all prompts
    seed: int
    published: Mapping[str, float | None]
    note: str = ""


def rows_of(
    tasks: Iterable[Task],
    logged: Mapping[Key, Mapping[str, Any]],
    *,
    seed: int,
    prices: Prices,
    notes: Mapping[str, str],
) -> list[Row]:
    """One for each task; the order of the log is nothing."""
    out = []
    for task in tasks:
        mine = sorted(
            (
                row
                for (name, effort, _), row in logged.items()
                if (name, effort) == (task.name, task.effort)
            ),
            key=lambda row: row["sample"],
        )
        out.append(_row(task, mine, seed, prices, notes.get(task.name, "")))
    return out


def _row(
    task: Task, mine: Sequence[Mapping[str, Any]], seed: int, prices: Prices, note: str
) -> Row:
    scores = np.array([row["score"] for row in mine], dtype=np.float64) * task.scale
    tokens = {
        kind: sum(row.get(f"{kind}_tokens", 0) for row in mine)
        for kind in ("prompt", "cached", "completion")
    }
    price = (
        tokens["cached"] * prices.hit
        + (tokens["prompt"] - tokens["cached"]) * prices.miss
        + tokens["completion"] * prices.out
    ) / MILLION
    hashes = hashlib.sha256("".join(row["hash"] for row in mine).encode()).hexdigest()[:12]
    low, high = interval(scores)
    return Row(
        task.name,
        task.title,
        task.metric,
        task.shots,
        task.effort,
        len(mine),
        float(scores.mean()) if len(mine) else None,
        low,
        high,
        task.chance * task.scale,
        {kind: sum(row["grade"] == kind for row in mine) / max(len(mine), 1) for kind in SHARES},
        tokens,
        price,
        hashes if len(mine) else "",
        seed,
        dict(task.published),
        note if len(mine) == 0 else "",
    )


def interval(scores: Any) -> tuple[float | None, float | None]:
    """Of the mean of some scores; None where there are none."""
    if not len(scores):
        return None, None
    rng = np.random.default_rng(0)
    means = [scores[rng.integers(len(scores), size=len(scores))].mean() for _ in range(RESAMPLED)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def table(rows: Sequence[Row], name: str) -> str:
    """Markdown in the release's form: ours, what it is made of, and the published columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row.published))
    head = ["benchmark (metric)", "shots", "effort", name, "95%", "chance", "samples"]
    head += [*SHARES, "tokens in", "out", "cost", "prompts", "seed", *columns]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        cells = [f"{row.title} ({row.metric})", str(row.shots), row.effort]
        if row.score is None:
            cells += [
                f"not run: {row.note or 'no sample'}",
                *["-"] * (len(head) - len(columns) - 4),
            ]
        else:
            cells += [
                f"{row.score:.1f}",
                f"{row.low:.1f}–{row.high:.1f}",
                f"{row.chance:.1f}",
                str(row.samples),
            ]
            cells += [f"{row.shares[kind]:.0%}" for kind in SHARES]
            cells += [f"{row.tokens['prompt']:,}", f"{row.tokens['completion']:,}"]
            cells += [f"{row.cost:.4f}", row.prompts, str(row.seed)]
        cells += [
            "-" if row.published.get(key) is None else f"{row.published[key]:g}" for key in columns
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, rows: Sequence[Row], name: str) -> None:
    """`results.json` and `table.md`, whole. Raises WriteError."""
    with replacing(folder / "results.json") as stream:
        stream.write(json.dumps([asdict(row) for row in rows], indent=2).encode() + b"\n")
    with replacing(folder / "table.md") as stream:
        stream.write(table(rows, name).encode())
