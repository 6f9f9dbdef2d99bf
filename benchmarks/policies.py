"""What the prefix cache's window policies keep, and what they read again: full, periodic, zero.

    python benchmarks/policies.py [--tokens 3000] [--edits 300] [--out FILE]

A prompt is read, and the cache asked how much of prompts that leave it at random places it would
reuse (they are not run: their own states would help the next one). `bytes`: what the cache holds of
the prompt, in memory and as files, a token of it, with the states at its end and its reply's.
`again`: tokens that stood in the first prompt and would be read once more, which is the price of
keeping less. All of it is counted, nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import dsv4
from dsv4.engine.engine import Engine
from dsv4.engine.request import Finished, Job, Token, Usage
from dsv4.sampling import Sampling

PERIODS = {"full": 128, "periodic, 512": 512, "periodic, 1,024": 1_024, "zero": 0}


class Over:
    """A listener that waits for the end."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def prefilled(self, usage: Usage, prompt: Sequence[Token] = ()) -> None:
        """The prompt was read."""

    def tokens(self, new: Sequence[Token]) -> bool:
        """One is enough."""
        return True

    def finished(self, end: Finished) -> None:
        """It was told."""
        self.over.set()


def measure(model: dsv4.Transformer, period: int, tokens: int, edits: int) -> dict:
    """One policy."""
    chosen = random.Random(1)
    ids, again = [chosen.randrange(4, 8000) for _ in range(tokens)], []
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            model, slots=2, memory=1 << 30, period=period, folder=folder, identity=b"policies"
        )
        listener = Over()
        engine.submit(Job(ids, Sampling(temperature=0, max_tokens=1)), listener)
        listener.over.wait()
        engine.close()
        files = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        for _ in range(edits):
            place = chosen.randrange(1, tokens)
            other = [*ids[:place], ids[place] + 1, *ids[place + 1 :]]
            again.append(place - engine.prefix.find(other).length)
    return {
        "period": period,
        "page_bytes": engine.prefix.held_pages * engine.pool.stores.page_bytes / tokens,
        "state_bytes": engine.prefix.held_bytes / tokens,
        "file_bytes": files / tokens,
        "again": mean(again),
        "most": max(again),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=3_000)
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    model = dsv4.load()
    report = {
        "machine": platform.machine(),
        "tokens": flags.tokens,
        "edits": flags.edits,
        "policies": {
            name: measure(model, period, flags.tokens, flags.edits)
            for name, period in PERIODS.items()
        },
    }
    text = json.dumps(report, indent=1)
    print(text)
    if flags.out:
        flags.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
