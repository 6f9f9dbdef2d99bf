"""How much of a decoded token's time is spent outside native code.

    python benchmarks/native_share.py CHECKPOINT [--context 512] [--steps 300] [--threads 2]

Tokens are decoded twice over: as they are, and with each native call replaced by nothing, which
leaves Python, torch and the calls themselves. The share is the second time over the first, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import dsv4
from dsv4.generation import prefill
from dsv4.model.cache import Cache


class Nothing:
    """Stands in for a native layer or head: takes the call, does nothing."""

    def attend(self, *arguments: Any) -> None:
        """Layer.attend."""

    def mix(self, *arguments: Any) -> None:
        """Layer.mix."""

    def logits(self, *arguments: Any) -> None:
        """Head.logits."""


def step_seconds(model: dsv4.Transformer, cache: Cache, steps: int) -> float:
    """Median time of one decoded token after those in the cache."""
    token, context, times = torch.tensor([[1]]), cache.lengths[0], []
    with torch.inference_mode():
        for _ in range(steps):
            start = time.perf_counter()
            model(token, cache)
            times.append(time.perf_counter() - start)
            cache.truncate(context)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = dsv4.load(args.checkpoint)
    cache = model.new_cache(1)
    prefill(model, [[1] * args.context], cache)
    whole = step_seconds(model, cache, args.steps)
    for owner in (*model.layers, model):
        owner.twin.native = Nothing()
    outside = step_seconds(model, cache, args.steps)  # twins know the cache's stores by now
    print(f"{whole * 1e6:.0f} µs a token, {outside * 1e6:.0f} µs outside: {outside / whole:.1%}")


if __name__ == "__main__":
    main()
