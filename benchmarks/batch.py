"""Decoding many sequences at once: tokens/s of 1, 2, 4 … 32 sequences, and what that is of one's.

    python benchmarks/batch.py 22M CHECKPOINT [--rounds 9] [--out benchmarks/results/batch.json]

Sequences stand at ragged lengths: the longest has the stated number of tokens, the shortest half
of them. Rounds of all batch sizes alternate, since a machine's speed drifts; a round's rate is that
of its median step, a ratio is taken within a round, and medians over the rounds are reported. Last
comes a mixed step, as a server feeds it: one sequence prefills 512 tokens while seven decode.
benchmarks/checkpoints.py makes CHECKPOINT.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES
from torch import Tensor

import dsv4
from dsv4.generation import prefill

CONTEXTS = (0, 128, 512)
BATCHES = (1, 2, 4, 8, 16, 32)
MIXED = 8  # sequences of the mixed step
PROMPT = 512  # tokens that one of them prefills


def starts(batch: int, context: int) -> list[int]:
    """Ragged lengths between context / 2 and context."""
    return [context - 37 * b % (context // 2 + 1) for b in range(batch)]


class Batch:
    """`batch` sequences after `context` tokens; a run feeds single tokens and steps back."""

    def __init__(self, model: dsv4.Transformer, batch: int, context: int, steps: int):
        draw = torch.Generator().manual_seed(0)
        vocabulary = model.config.vocab_size
        self.model, self.lengths = model, starts(batch, context)
        self.cache = model.new_cache(batch)
        if context:
            texts = [torch.randint(vocabulary, (n,), generator=draw).tolist() for n in self.lengths]
            prefill(model, texts, self.cache)
        self.columns = torch.randint(vocabulary, (steps, batch, 1), generator=draw)

    def run(self) -> float:
        """Tokens/s of the median step."""
        seconds = statistics.median(
            _seconds(partial(self.model, column, self.cache)) for column in self.columns
        )
        self.cache.truncate(self.lengths)
        return len(self.lengths) / seconds


@torch.inference_mode()
def mixed(model: dsv4.Transformer, rounds: int) -> dict[str, float]:
    """Milliseconds of a prefill, of a step of seven, and of both in one call."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (MIXED, PROMPT), generator=draw)
    steps = {
        "prefill": (ids[:1], [PROMPT]),
        "decode": (ids[1:, :1].contiguous(), [1] * (MIXED - 1)),
        "together": (ids, [PROMPT] + [1] * (MIXED - 1)),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):  # the first is a warm-up
        for name, (fed, lengths) in steps.items():
            cache = model.new_cache(len(lengths))
            times[name].append(_seconds(partial(model.streams, fed, cache, lengths)))
    return {name: statistics.median(found[1:]) * 1e3 for name, found in times.items()}


def _seconds(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.inference_mode()
def measure(
    model: dsv4.Transformer, context: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Alternate the batch sizes; one row each."""
    batches = {n: Batch(model, n, context, args.steps) for n in BATCHES}
    rates: dict[int, list[float]] = {n: [] for n in BATCHES}
    for turn in range(args.rounds + 1):
        for n, batch in batches.items():
            rate = batch.run()
            if turn:  # the first is a warm-up
                rates[n].append(rate)
    rows = []
    for n, found in rates.items():
        ratios = [rate / one for rate, one in zip(found, rates[1], strict=True)]
        row = {"context": context, "sequences": n, "tokens/s": statistics.median(found)}
        ratio = statistics.median(ratios)
        rows.append(row | {"ratio": ratio, "rates": found})
        rate = row["tokens/s"]
        print(f"after {context:4}, {n:2} at once: {rate:7.0f} tokens/s ×{ratio:.2f}", flush=True)
    return rows


def main() -> None:
    """Measure, print, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = dsv4.load(args.checkpoint)
    rows = [row for context in CONTEXTS for row in measure(model, context, args)]
    step = mixed(model, args.rounds)
    print(", ".join(f"{name} {ms:.1f} ms" for name, ms in step.items()))
    if args.out:
        machine = f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}"
        report = {"shape": args.shape, "machine": machine, "rounds": args.rounds}
        report |= {"rows": rows, "mixed ms": step}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
