"""The dsv4 side of a comparison: one model in a process of its own, one timed run a line.

    python benchmarks/dsv4_side.py CHECKPOINT decode CONTEXT --steps 64
    python benchmarks/dsv4_side.py CHECKPOINT prefill TOKENS

It loads, warms up and writes `ready`; then each line on stdin starts one run, whose tokens/s are
a line on stdout. The end of stdin ends it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import dsv4
from dsv4.generation import prefill

SEED = 0
WARM_UP = 4  # steps


def random_ids(n: int, vocab_size: int) -> list[int]:
    """Seeded ids."""
    return torch.randint(vocab_size, (n,), generator=torch.Generator().manual_seed(SEED)).tolist()


def dsv4_prefill(model: dsv4.Transformer, tokens: int) -> Callable[[], float]:
    """A run fills an empty cache; it returns tokens/s."""
    ids = random_ids(tokens, model.config.vocab_size)

    def run() -> float:
        cache = model.new_cache(1)
        start = time.perf_counter()
        prefill(model, [ids], cache)
        return tokens / (time.perf_counter() - start)

    prefill(model, [ids[:512]], model.new_cache(1))
    return run


@torch.inference_mode()
def dsv4_decode(model: dsv4.Transformer, context: int, steps: int) -> Callable[[], float]:
    """A run feeds `steps` single tokens after `context` others and returns tokens/s."""
    cache = model.new_cache(1)
    if context:
        prefill(model, [random_ids(context, model.config.vocab_size)], cache)
    column = torch.tensor(random_ids(steps, model.config.vocab_size)).view(-1, 1, 1)

    @torch.inference_mode()
    def run(steps: int = steps) -> float:
        start = time.perf_counter()
        for token in column[:steps]:
            model(token, cache)
        seconds = time.perf_counter() - start
        cache.truncate(context)
        return steps / seconds

    run(min(WARM_UP, steps))
    return run


def main() -> None:
    """Serve runs until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("kind", choices=("decode", "prefill"))
    parser.add_argument("tokens", type=int)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mode", help="mode of dsv4.load; default: its own")
    parser.add_argument("--copy", action="store_true", help="dsv4.load(..., copy=True)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = dsv4.load(args.checkpoint, mode=args.mode, copy=args.copy)
    if args.kind == "decode":
        run = dsv4_decode(model, args.tokens, args.steps)
    else:
        run = dsv4_prefill(model, args.tokens)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(run(), flush=True)


if __name__ == "__main__":
    main()
