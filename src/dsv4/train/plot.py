"""Curves of runs over one another: loss, bits a byte, rate, gradient norm, experts' load, speed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dsv4.atomic import replacing
from dsv4.train.pretrain import METRICS_FILE

PANELS = {  # of the rows' names: a title, and whether it is noisy
    "loss": ("training loss, nats a token", True),
    "bits_per_byte": ("held-out bits a byte", False),
    "mtp_loss": ("MTP loss, nats a token", True),
    "norm": ("gradient norm", True),
    "lr": ("learning rate", False),
    "index_kl": ("indexer KL, nats", True),
    "index_recall": ("indexer recall of attention", True),
    "expert_load": ("largest expert load / mean", True),
    "tokens_per_s": ("tokens a second", True),
}
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#7f7f7f", "#8c564b")
SMOOTH = 40  # points of a curve that a mean is taken over, at most a twentieth of them


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run. Raises ValueError, FileNotFoundError."""
    file = run / METRICS_FILE if run.is_dir() else run
    if not file.is_file():
        raise FileNotFoundError(f"{run} holds no {METRICS_FILE}: name the folder of a run")
    rows = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(text)
            row["step"], row["tokens"]
        except (ValueError, KeyError, TypeError) as error:
            if number > 1 and not text.endswith("}"):
                break  # a run at work is writing it
            raise ValueError(f"{file}, line {number}: no metrics of a step") from error
        rows.append(row)
    return rows


def plot(runs: Sequence[Path], out: Path, *, by: str = "tokens") -> Path:
    """Draw the runs into the PNG `out`. `by`: "tokens" or "steps". Raises ValueError for runs
    without steps, WriteError."""
    if by not in ("tokens", "steps"):
        raise ValueError(f"--by {by}: must be tokens or steps")
    matplotlib = _matplotlib()
    key = "step" if by == "steps" else by
    found = {name: read_rows(run) for name, run in _names(runs).items()}
    empty = [name for name, rows in found.items() if not any("loss" in row for row in rows)]
    if empty:
        raise ValueError(f"{empty[0]} has made no step yet: nothing is there to draw")
    panels = [
        name for name in PANELS if any(name in row for rows in found.values() for row in rows)
    ]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = matplotlib.pyplot.subplots(
        lines, columns, figsize=(5 * columns, 3.2 * lines + 0.6), squeeze=False
    )
    for axis, name in zip(axes.flat, panels, strict=False):
        _draw(axis, name, found, key)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=min(4, len(labels)), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / figure.get_figheight()))
    with replacing(out) as stream:
        figure.savefig(stream, format="png", dpi=110)
    matplotlib.pyplot.close(figure)
    return out


def _draw(axis: Any, name: str, found: dict[str, list[dict[str, Any]]], key: str) -> None:
    from matplotlib import ticker

    title, noisy = PANELS[name]
    for number, (run, rows) in enumerate(found.items()):
        color = COLORS[number % len(COLORS)]
        points = [(row[key], row[name]) for row in rows if name in row]
        x, y = [p[0] for p in points], [p[1] for p in points]
        smooth = min(SMOOTH, len(y) // 20) if noisy else 0
        if smooth > 1:
            axis.plot(x, y, color=color, alpha=0.25, linewidth=0.7)
        marker = "o" if len(x) < 30 else None
        axis.plot(
            x, _means(y, smooth), color=color, label=run, linewidth=1.4, marker=marker, markersize=3
        )
        for row in rows:
            if row.get("event") == "rollback":
                axis.axvline(row[key], color=color, linestyle=":", linewidth=1)
        for before, after in pairwise(row for row in rows if "stage" in row):
            if before["stage"] != after["stage"]:
                axis.axvline(after[key], color="0.6", linestyle="--", linewidth=0.8)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("steps" if key == "step" else key, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axis.grid(alpha=0.25)
    if name in ("norm", "index_kl"):
        axis.set_yscale("log")


def _means(values: list[float], count: int) -> list[float]:
    """The mean of each value and up to `count` − 1 before it."""
    if count < 2:
        return values
    sums, total = [], 0.0
    for number, value in enumerate(values):
        total += value - (values[number - count] if number >= count else 0.0)
        sums.append(total / min(count, number + 1))
    return sums


def _names(runs: Sequence[Path]) -> dict[str, Path]:
    """The runs by their folders' names, or by their paths where these are the same."""
    names = [run.resolve().name for run in runs]
    return {
        name if names.count(name) == 1 else str(run): run
        for name, run in zip(names, runs, strict=True)
    }


def _matplotlib() -> Any:
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ValueError(f"plots need matplotlib: pip install 'dsv4[plot]' ({error})") from error
    return matplotlib
