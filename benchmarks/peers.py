"""dsv4 against transformers' DeepseekV4ForCausalLM: the same weights, threads and process.

    python benchmarks/peers.py [--rounds 5] [--threads 2] [--out benchmarks/results/peers.json]

Rounds of the two sides alternate, since a machine's speed drifts; what is reported is the median of
each side's tokens/s and the median of the rounds' ratios. Training: see training.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from shapes import SHAPES
from torch import Tensor

import dsv4
from dsv4.checkpoint import official

SEED = 0


def load_both(shape: str) -> tuple[dsv4.Transformer, torch.nn.Module]:
    """The same random checkpoint, written once and read by both sides."""
    full = SHAPES[shape]
    ratios = full.compress_ratios[: full.num_hidden_layers]
    config = full.replace(num_nextn_predict_layers=0, compress_ratios=ratios)
    model = dsv4.Transformer(config)
    model.initialize(SEED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        official.save(model.state_dict(), config, path)
        ours = dsv4.load(path)
        theirs = transformers.DeepseekV4ForCausalLM.from_pretrained(path, dtype=torch.float32)
    return ours, theirs


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def random_ids(batch: int, n: int, vocab: int) -> Tensor:
    """Seeded ids [batch, n]."""
    return torch.randint(vocab, (batch, n), generator=torch.Generator().manual_seed(SEED))


def prefill(ours: dsv4.Transformer, theirs: torch.nn.Module, n: int) -> list[Callable[[], object]]:
    """Both sides fill a cache with n tokens and give the last token's logits."""
    ids = random_ids(1, n, ours.config.vocab_size)

    def left() -> Tensor:
        return ours.head(ours.collapse(ours.streams(ids, ours.new_cache(1))[:, -1:]))

    def right() -> Tensor:
        return theirs(ids, use_cache=True, logits_to_keep=1).logits

    return [torch.inference_mode()(side) for side in (left, right)]


def decode(
    ours: dsv4.Transformer, theirs: torch.nn.Module, context: int, steps: int
) -> list[Callable[[], object]]:
    """Both sides feed `steps` single tokens after `context` tokens."""
    ids = random_ids(1, context, ours.config.vocab_size)
    cache = ours.new_cache(1)
    with torch.inference_mode():
        ours.streams(ids, cache)
        past = theirs(ids, use_cache=True, logits_to_keep=1).past_key_values
    following = random_ids(steps, 1, ours.config.vocab_size).split(1)

    def left() -> None:
        for token in following:
            ours(token, cache)

    def right() -> None:
        for token in following:
            theirs(token, past_key_values=past, use_cache=True)

    return [torch.inference_mode()(side) for side in (left, right)]


def measure(name: str, tokens: int, sides: list[Callable[[], object]], rounds: int) -> dict:
    """Alternate the sides; tokens/s of each and their ratio, as medians over the rounds."""
    for side in sides:
        side()
    times = [[seconds(side) for side in sides] for _ in range(rounds)]
    left, right = ([tokens / t[side] for t in times] for side in (0, 1))
    row: dict[str, Any] = {
        "what": name,
        "dsv4": statistics.median(left),
        "transformers": statistics.median(right),
        "ratio": statistics.median(a / b for a, b in zip(left, right, strict=True)),
    }
    print(
        "{what:22} dsv4 {dsv4:8.1f}  transformers {transformers:8.1f}  ×{ratio:.2f}".format(**row)
    )
    return row


def main() -> None:
    """Measure, print, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="measure only rows whose name contains this")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, theirs = load_both("18M")
    cases: list[tuple[str, int, Callable[[], list[Callable[[], object]]]]] = [
        ("prefill 512", 512, lambda: prefill(ours, theirs, 512)),
        ("prefill 4096", 4096, lambda: prefill(ours, theirs, 4096)),
        ("decode after 512", 64, lambda: decode(ours, theirs, 512, 64)),
    ]
    rows = []
    for name, tokens, make in cases:
        if args.only not in name:
            continue
        rows.append(measure(name, tokens, make(), args.rounds))
    if args.out:
        machine = f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}"
        report = {
            "shape": "18M",
            "dtype": "float32",
            "machine": machine,
            "rounds": args.rounds,
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
