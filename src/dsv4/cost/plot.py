"""The two curves of the report: FLOPs of a token and bytes of a sequence, by context."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from dsv4.atomic import replacing
from dsv4.config import Config
from dsv4.cost import baseline
from dsv4.cost.flops import token
from dsv4.cost.report import held_bytes

POINTS = 64


def draw(file: Path, configs: Mapping[str, Config], *, v32: bool) -> None:
    """Write a PNG of `configs`, and of V3.2 beside them. Raises WriteError."""
    longest = min(10**6, *(config.max_position_embeddings for config in configs.values()))
    contexts = [max(1, longest * i // POINTS) for i in range(POINTS + 1)]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    if v32:
        left.plot(contexts, [baseline.token(n).fp8 / 1e9 for n in contexts], "k--", label="V3.2")
        right.plot(contexts, [baseline.cache_bytes(n) / 1e9 for n in contexts], "k--", label="V3.2")
    for name, config in configs.items():
        left.plot(contexts, [token(config, n).fp8 / 1e9 for n in contexts], label=name)
        right.plot(contexts, [held_bytes(config, n) / 1e9 for n in contexts], label=name)
    for axes, title in (
        (left, "GFLOP a token (FP8-equivalent)"),
        (right, "cache of a sequence, GB"),
    ):
        axes.set_title(title)
        axes.set_xlabel("tokens of context")
        axes.set_xlim(0, longest)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(lambda n, _: f"{n / 1e6:g}M" if n else "0")
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(file) as stream:
        figure.savefig(stream, format="png", dpi=110)
