"""Bars: ours beside the published, a group for each benchmark, whiskers for the interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsv4.atomic import replacing
from dsv4.eval.report import Row

MOST = 4  # published columns beside ours


def draw(file: Path, rows: Sequence[Row], name: str) -> None:
    """Write a PNG of the rows that were run; what is no share of 100 has axes of its own. Raises
    ValueError without any, WriteError."""
    shown = [row for row in rows if row.score is not None]
    if not shown:
        raise ValueError("no benchmark was run: there is nothing to draw")
    columns = list(dict.fromkeys(key for row in shown for key in row.published))[:MOST]
    panels = [[row for row in shown if (row.digits == 1) == share] for share in (True, False)]
    panels = [panel for panel in panels if panel]
    figure = Figure(
        figsize=(max(5.0, 1.1 * len(shown) * (1 + 0.3 * len(columns))), 4.5), layout="constrained"
    )
    widths = {"width_ratios": [len(panel) for panel in panels]}
    axes = figure.subplots(1, len(panels), squeeze=False, gridspec_kw=widths)[0]
    for place, panel in zip(axes, panels, strict=True):
        _bars(place, panel, columns, name)
    with replacing(file) as stream:
        figure.savefig(stream, format="png", dpi=110)


def _bars(axes: Axes, shown: Sequence[Row], columns: Sequence[str], name: str) -> None:
    width = 0.8 / (1 + len(columns))
    places = range(len(shown))
    ours = [row.score or 0.0 for row in shown]
    spread = [  # a score that is no mean may lie outside of its resampled ones
        [max(score - (row.low or 0.0), 0.0) for score, row in zip(ours, shown, strict=True)],
        [max((row.high or 0.0) - score, 0.0) for score, row in zip(ours, shown, strict=True)],
    ]
    axes.bar(places, ours, width, yerr=spread, capsize=2, label=name)
    for number, key in enumerate(columns, start=1):
        at = [place + number * width for place in places]
        axes.bar(at, [row.published.get(key) or 0.0 for row in shown], width, label=key)
    known = [(place, row.chance) for place, row in enumerate(shown) if row.chance is not None]
    for place, chance in known:
        axes.scatter(place, chance, marker="_", color="black")
    if known:
        axes.scatter([], [], marker="_", color="black", label="chance")
    titles = Counter((row.title, row.effort) for row in shown)
    labels = [
        row.title
        + (f"\n{row.metric}" if titles[row.title, row.effort] > 1 else "")
        + ("" if row.effort == "none" else f"\n{row.effort}")
        for row in shown
    ]
    axes.set_xticks([p + width * len(columns) / 2 for p in places], labels, rotation=60, ha="right")
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.3)
