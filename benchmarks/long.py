"""One sequence up to the end of the context: seconds, memory and cache bytes after 4K … 1M tokens.

    python benchmarks/long.py [CHECKPOINT] [--out benchmarks/results/long.json]

Random tokens are read to each length in turn. There a second sequence, which stands at the first
length, and this one decode by turns, since a machine's speed drifts: a step is what `dsv4 generate`
does for a token, a round's rate is that of its median step, and the ratio to the first length is
taken within a round. Then both step back. The last length ends `--steps` short of the context, so
that decoding fills it to the last token. With `--state FILE` the cache is kept there after each
length, and a run that was ended goes on behind the rows of the file `--out`.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import dsv4
from dsv4.atomic import replacing
from dsv4.checkpoint.load import packaged
from dsv4.cli.reading import line
from dsv4.config import LayerKind
from dsv4.generation import prefill
from dsv4.model.cache import Cache
from dsv4.model.cache_size import cache_bytes
from dsv4.sampling import Sampling, sample

LENGTHS = (4_096, 65_536, 262_144, 1_048_576)
MIB = 1 << 20


class Progress:
    """A line of what is read, four times a second, of a stretch that begins at `start`."""

    def __init__(self) -> None:
        self.begun = self.shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and (done == total or now > self.shown + 0.25):
            self.shown = now
            print("\r" + line(done, total, now - self.begun), end=" " * 8, file=sys.stderr)
        elif done == total or now > self.shown + 15:
            self.shown = now
            print(line(done, total, now - self.begun), file=sys.stderr, flush=True)


def read(model: dsv4.Transformer, cache: Cache, ids: list[int], until: int) -> float:
    """Read the sequence's tokens up to a length; seconds."""
    start = time.perf_counter()
    prefill(model, [ids[cache.lengths[0] : until]], cache, progress=Progress())
    return time.perf_counter() - start


@torch.inference_mode()
def decode(model: dsv4.Transformer, cache: Cache, steps: int) -> float:
    """Tokens/s of the median of greedy steps, and back."""
    sampling, length = Sampling(temperature=0), cache.lengths[0]
    token, seconds = 0, []
    for _ in range(steps):
        start = time.perf_counter()
        logits = model(torch.tensor([[token]]), cache)[:, -1]
        (token,) = sample(logits, [sampling], [sampling.generator(0)])
        seconds.append(time.perf_counter() - start)
    cache.truncate(length)
    return 1 / statistics.median(seconds)


def compare(
    model: dsv4.Transformer, first: Cache, cache: Cache, args: argparse.Namespace
) -> dict[str, Any]:
    """Decoding at the first length and here, by turns."""
    rounds = [
        (decode(model, first, args.steps), decode(model, cache, args.steps))
        for _ in range(args.rounds + 1)
    ][1:]  # the first is a warm-up
    return {
        "decode": statistics.median(here for _, here in rounds),
        "decode at first": statistics.median(there for there, _ in rounds),
        "ratio": statistics.median(here / there for there, here in rounds),
        "rounds": rounds,
    }


def memory(model: dsv4.Transformer, cache: Cache) -> dict[str, Any]:
    """What the cache was counted to hold, by part, and the process's peak."""
    config, (tokens,) = model.config, cache.lengths
    parts = cache_bytes(config, tokens)
    hca = sum(kind is LayerKind.HCA for kind in config.layer_kinds)
    seen = hca * (tokens // 128) * cache.layers[-1].window.data.shape[2]
    return {
        "entries": parts.entries,
        "keys": parts.keys,
        "fixed": parts.total - parts.entries - parts.keys,
        "counted": cache.nbytes(),
        "read a step": parts.keys + seen,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }


def keep(cache: Cache, file: Path) -> None:
    """Write what the sequence holds."""
    pages = len(cache.sequences[0].pages)
    rings = [ring.data for layer in cache.layers for ring in layer.rings]
    entries = [e.data[:pages].clone() for layer in cache.layers for e in layer.entries]
    with replacing(file) as part:
        torch.save({"length": cache.lengths[0], "rings": rings, "entries": entries}, part)


def restore(cache: Cache, file: Path) -> None:
    """The same from the file, into a cache that is empty."""
    kept = torch.load(file)
    cache.reserve([len(kept["entries"][0]) * cache.stores.page_tokens])
    for ring, data in zip([r for x in cache.layers for r in x.rings], kept["rings"], strict=True):
        ring.data.copy_(data)
    stores = [e for layer in cache.layers for e in layer.entries]  # of the reserved size
    for entries, data in zip(stores, kept["entries"], strict=True):
        entries.data[: len(data)] = data
    cache.sequences[0].length = cache.sequences[0].reached = kept["length"]


def main() -> None:
    """Measure, print, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", default=packaged())
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = dsv4.load(args.checkpoint)
    context = model.config.max_position_embeddings
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (context,), generator=draw).tolist()
    machine = f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}"
    report: dict[str, Any] = {"checkpoint": args.checkpoint.name, "machine": machine, "rows": []}
    report |= {"steps": args.steps, "rounds": args.rounds}
    first, cache = model.new_cache(1), model.new_cache(1)
    read(model, first, ids, args.lengths[0])
    if args.state and args.state.exists():
        restore(cache, args.state)
        rows = json.loads(args.out.read_text(encoding="utf-8"))["rows"] if args.out else []
        report["rows"] = [row for row in rows if row["tokens"] <= cache.lengths[0] + args.steps]
    for tokens in args.lengths:
        if any(row["tokens"] == tokens for row in report["rows"]):
            continue
        until, before = min(tokens, context - args.steps), cache.lengths[0]
        seconds = read(model, cache, ids, until) if until > before else 0.0
        row = {"tokens": tokens, "seconds": seconds, "prefill": (until - before) / (seconds or 1)}
        row |= compare(model, first, cache, args) | memory(model, cache)
        report["rows"].append(row)
        print(
            f"{tokens:9,}: read in {seconds:.1f} s ({row['prefill']:,.0f} tokens/s), decode "
            f"{row['decode']:,.0f} tokens/s (×{row['ratio']:.2f}), cache "
            f"{row['counted'] / MIB:,.1f} MiB, peak {row['peak'] / MIB:,.0f} MiB",
            flush=True,
        )
        if args.state:
            keep(cache, args.state)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
