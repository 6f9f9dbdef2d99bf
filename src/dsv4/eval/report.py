"""A log → rows: means with bootstrap intervals, shares of what was no answer, tokens, cost.

interval: the 2.5% and 97.5% quantiles of the means of resampled scores (1,000 times, seed 0)
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dsv4.atomic import replacing
from dsv4.cost.price import MILLION, Prices
from dsv4.eval.log import Key
from dsv4.eval.task import Reading, Task, average

SHARES = ("cut", "unparsed", "refused", "failed", "unjudged")


@dataclass(frozen=True)
class Row:
    """Of one task at one effort; of several scores of the same replies each has a row, and says in
    `reading` how they were read. `score`, `low` and `high` are scaled as tables have them; None
    where nothing was run, and `note` says why. Samples without a verdict of the judge are in
    `samples` and its shares, and in no score. `judge`: its model, the rubric's hash, and how many
    known replies it marks as it should. Of agents, `stopped` counts by what, and `steps` is the
    mean of them. `left_out` counts by why: those are no `samples`."""

    task: str
    title: str
    metric: str
    shots: int
    effort: str
    samples: int
    score: float | None
    low: float | None
    high: float | None
    chance: float | None
    shares: Mapping[str, float]
    tokens: Mapping[str, int]
    cost: float
    prompts: str  # the hash of all prompts
    seed: int
    published: Mapping[str, float | None]
    note: str = ""
    judge: str = ""
    stopped: Mapping[str, int] = field(default_factory=dict)
    steps: float | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    reading: str = ""
    digits: int = 1  # decimals in tables


def rows_of(
    tasks: Iterable[Task],
    logged: Mapping[Key, Mapping[str, Any]],
    *,
    seed: int,
    prices: Prices,
    notes: Mapping[str, str],
) -> list[Row]:
    """One for each task, or for each reading of one; the order of the log is nothing."""
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
        for reading in _readings(task, mine):
            out.append(_row(task, reading, mine, seed, prices, notes.get(task.name, "")))
    return out


def _readings(task: Task, mine: Sequence[Mapping[str, Any]]) -> list[Reading]:
    """A task's own scores of its rows, or the mean of theirs."""
    mine = [row for row in mine if "left_out" not in row]
    if task.readings is not None and (found := task.readings(mine)):
        return found
    counted = [row["score"] for row in mine if row["score"] is not None]
    return [Reading("", task.metric, counted, scale=task.scale)]


def _row(
    task: Task,
    reading: Reading,
    mine: Sequence[Mapping[str, Any]],
    seed: int,
    prices: Prices,
    note: str,
) -> Row:
    left = Counter(row["left_out"] for row in mine if "left_out" in row)
    mine = [row for row in mine if "left_out" not in row]
    counted = len(reading.items)
    tokens = {
        kind: sum(row.get(f"{kind}_tokens", 0) for row in mine)
        for kind in ("prompt", "cached", "completion")
    }
    hashes = hashlib.sha256("".join(row["hash"] for row in mine).encode()).hexdigest()[:12]
    low, high = interval(reading.items, reading.total, reading.draws)
    tokens["judge"] = sum(_judges(row) for row in mine)
    steps = [row["steps"] for row in mine if "steps" in row]
    if len(mine) and not counted:
        failed = all("failed" in row for row in mine)
        note = "every sample failed" if failed else "the judge gave no verdict"
    elif left and not mine:
        note = "all were left out"
    return Row(
        task.name,
        f"{task.title}, {reading.name}" if reading.name else task.title,
        reading.metric,
        task.shots,
        task.effort,
        len(mine),
        reading.total(reading.items) * reading.scale if counted else None,
        None if low is None else low * reading.scale,
        None if high is None else high * reading.scale,
        None if task.chance is None else task.chance * task.scale,
        _shares(mine),
        tokens,
        _price(tokens, prices),
        hashes if len(mine) else "",
        seed,
        dict(task.published) if reading.published else {},
        "" if counted else note,
        _judge(mine),
        dict(sorted(Counter(row["stopped"] for row in mine if "stopped" in row).items())),
        sum(steps) / len(steps) if steps else None,
        dict(sorted(left.items())),
        reading.name,
        1 if reading.scale == 100 else 3,
    )


def _price(tokens: Mapping[str, int], prices: Prices) -> float:
    new = tokens["prompt"] - tokens["cached"]
    paid = tokens["cached"] * prices.hit + new * prices.miss + tokens["completion"] * prices.out
    return paid / MILLION


def _shares(mine: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {kind: sum(row["grade"] == kind for row in mine) / max(len(mine), 1) for kind in SHARES}


def _judge(mine: Sequence[Mapping[str, Any]]) -> str:
    """The judge's model, its rubric, and the share of controls that it marks as it should."""
    known = {(j["model"], j["rubric"], j["agrees"]) for j in map(_judged, mine) if "agrees" in j}
    return ", ".join(
        f"{model} {rubric[:8]} right in {agrees:.0%} of controls"
        for model, rubric, agrees in sorted(known)
    )


def _judged(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.get("judged", {})
    return found


def _judges(row: Mapping[str, Any]) -> int:
    """Tokens that a judge read and wrote."""
    found = _judged(row)
    return int(found.get("prompt_tokens", 0) + found.get("completion_tokens", 0))


def interval(
    items: Sequence[Any],
    total: Callable[[Sequence[Any]], float] = average,
    draws: int = Reading.draws,
) -> tuple[float | None, float | None]:
    """Of what `total` makes of some items, by default of their mean; None where there are none."""
    if not len(items):
        return None, None
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(items), size=len(items)) for _ in range(draws))
    if total is average:
        numbers = np.array(items, dtype=np.float64)
        totals = [numbers[places].mean() for places in drawn]
    else:
        totals = [total([items[place] for place in places]) for places in drawn]
    low, high = np.quantile(totals, (0.025, 0.975))
    return float(low), float(high)


def table(rows: Sequence[Row], name: str) -> str:
    """Markdown in the release's form: ours, what it is made of, and the published columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row.published))
    agents = any(row.stopped for row in rows)
    head = ["benchmark (metric)", "shots", "effort", name, "95%", "chance", "samples"]
    head += [*SHARES, *(["stopped by", "steps"] if agents else []), "tokens in", "out", "cost"]
    head += ["prompts", "seed"]
    lines = [f"| {' | '.join([*head, *columns])} |", f"|{' --- |' * len([*head, *columns])}"]
    for row in rows:
        judged = f", judge {row.judge}" if row.judge else ""
        cells = [f"{row.title} ({row.metric}{judged})", str(row.shots), row.effort]
        if not row.samples:
            cells.append(f"not run: {row.note or 'no sample'}{_left(row)}")
            cells += ["-"] * (len(head) - len(cells))
        else:
            cells += _measured(row, agents)
        cells += [
            "-" if row.published.get(key) is None else f"{row.published[key]:g}" for key in columns
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _measured(row: Row, agents: bool) -> list[str]:
    """The cells of a row that was run, behind those of its name."""
    cells = [
        f"no score: {row.note}" if row.score is None else f"{row.score:.{row.digits}f}",
        "-" if row.low is None else f"{row.low:.{row.digits}f}–{row.high:.{row.digits}f}",
        "unknown" if row.chance is None else f"{row.chance:.1f}",
        f"{row.samples}{_left(row)}",
        *(f"{row.shares[kind]:.0%}" for kind in SHARES),
    ]
    if agents:
        stops = ", ".join(f"{kind} {count}" for kind, count in row.stopped.items())
        cells += [stops or "-", "-" if row.steps is None else f"{row.steps:.1f}"]
    cells += [f"{row.tokens['prompt']:,}", f"{row.tokens['completion']:,}"]
    return [*cells, f"{row.cost:.4f}", row.prompts, str(row.seed)]


def _left(row: Row) -> str:
    """How many samples were not asked, and why."""
    return "".join(f"; {count} left out: {why}" for why, count in row.left_out.items())


def write(folder: Path, rows: Sequence[Row], name: str) -> None:
    """`results.json` and `table.md`, whole. Raises WriteError."""
    with replacing(folder / "results.json") as stream:
        stream.write(json.dumps([asdict(row) for row in rows], indent=2).encode() + b"\n")
    with replacing(folder / "table.md") as stream:
        stream.write(table(rows, name).encode())
