"""What MTP drafts make of decoding one sequence in the engine, and where the time goes.

    python benchmarks/speculate.py [--checkpoint FOLDER] [--threads 1] [--rounds 7] [--out FILE]

One process, engines with and without drafts in alternating rounds; drafting is forced, since an
engine leaves it where it does not pay. Processor time is reported beside wall time: on a machine
that others use only the former means something. `limit` is what drafts could give if nothing but
the model's own operators took time: tokens a step · (forward and head of one token) / (those of
two, a row of the draft, its head).
"""

from __future__ import annotations

import argparse
import json
import platform
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

import dsv4
from dsv4.checkpoint.load import packaged
from dsv4.engine.engine import Engine
from dsv4.engine.request import Finished, Job, Token, Usage
from dsv4.sampling import Sampling

PROMPT = "The sun is a star. It gives light and heat to the earth. Water is made of"
TOKENS = 300
CONTEXT = 200  # tokens before a step whose parts are measured


class Clock:
    """A listener that measures from the prompt's end to the reply's."""

    def __init__(self) -> None:
        self.over, self.said = threading.Event(), 0

    def prefilled(self, usage: Usage, prompt: Sequence[Token] = ()) -> None:
        """The prompt was read."""
        self.began = time.perf_counter(), time.process_time()

    def tokens(self, new: Sequence[Token]) -> bool:
        """Count."""
        self.said += len(new)
        return False

    def finished(self, ended: Finished) -> None:
        """Keep µs a token: wall, processor."""
        spent = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        self.each, self.usage = [1e6 * s / self.said for s in spent], ended.usage
        self.over.set()


def reply(engine: Engine, ids: list[int], sampling: Sampling) -> Clock:
    """One reply of TOKENS tokens."""
    clock = Clock()
    engine.submit(Job(ids, sampling, end_ids=[]), clock)
    clock.over.wait()
    return clock


def compare(
    model: dsv4.Transformer, ids: list[int], temperature: float, least: float, rounds: int
) -> dict:
    """Drafts of a confidence from `least` on against none."""
    spent: dict[bool, list[list[float]]] = {False: [], True: []}
    said = drafted = accepted = 0
    with Engine(model, slots=2) as plain, Engine(model, slots=2, draft=least) as drafting:
        assert drafting.drafts is not None
        drafting.drafts.pays.wanted = lambda batch: True  # type: ignore[method-assign]
        for number in range(-1, rounds):  # the first warms up
            sampling = Sampling(temperature=temperature, seed=number + 1, max_tokens=TOKENS)
            for drafts, engine in ((False, plain), (True, drafting)):
                clock = reply(engine, ids, sampling)
                if number >= 0:
                    spent[drafts].append(clock.each)
                    said += clock.said * drafts
                    drafted += clock.usage.drafted
                    accepted += clock.usage.accepted
    wall, cpu = (
        {drafts: median(each[i] for each in found) for drafts, found in spent.items()}
        for i in (0, 1)
    )
    pairs = list(zip(spent[False], spent[True], strict=True))
    return {
        "temperature": temperature,
        "confidence": least,
        "verified": drafted / (said - accepted),  # of the steps
        "accepted": accepted / max(drafted, 1),
        "us_a_token": {"wall": [wall[False], wall[True]], "processor": [cpu[False], cpu[True]]},
        "ratio": {
            name: median(without[i] / with_[i] for without, with_ in pairs)
            for i, name in enumerate(("wall", "processor"))
        },
    }


def least(call: Callable[[], object], count: int = 300) -> float:
    """Processor time of a call, µs: the tenth percentile."""
    taken = []
    for _ in range(count):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return 1e6 * sorted(taken)[count // 10]


@torch.inference_mode()
def parts(model: dsv4.Transformer) -> dict[str, float]:
    """Operators of a step after CONTEXT tokens, µs of processor time."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (1, CONTEXT + 3), generator=generator)
    cache, drafts = model.new_cache(1), model.new_draft_cache(1)
    streams = model.streams(ids[:, :CONTEXT], cache)
    model.draft_streams(streams, ids[:, 1 : CONTEXT + 1], drafts)

    def forward(n: int) -> torch.Tensor:
        found = model.streams(ids[:, CONTEXT : CONTEXT + n], cache)
        cache.truncate(CONTEXT)
        return found

    def draft(n: int) -> torch.Tensor:
        following = ids[:, CONTEXT + 1 : CONTEXT + 1 + n]
        found = model.draft_streams(forward_streams[:, :n], following, drafts)
        drafts.truncate(CONTEXT)
        return found

    forward_streams = forward(2)
    drafted = draft(1)
    return {
        "forward 1": least(lambda: forward(1)),
        "forward 2": least(lambda: forward(2)),
        "head 1": least(lambda: model.logits(forward_streams[:, :1])),
        "head 2": least(lambda: model.logits(forward_streams)),
        "draft 1": least(lambda: draft(1)),
        "draft 2": least(lambda: draft(2)),
        "draft head": least(lambda: model.draft_logits(drafted)),
    }


def limit(us: dict[str, float], verified: float, accepted: float) -> float:
    """The ratio that operators alone would give: of all steps a share verifies a draft, and of
    those a share keeps it, whose row the draft runs with its next."""
    one, two = us["forward 1"] + us["head 1"], us["forward 2"] + us["head 2"]
    row = us["draft 1"] + verified * accepted * (us["draft 2"] - us["draft 1"])
    drafting = (1 - verified) * one + verified * two + row + us["draft head"]
    return (1 + verified * accepted) * one / drafting


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="default: the packaged model")
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.0, 0.2, 0.5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    folder = flags.checkpoint or packaged()
    model, tokenizer = dsv4.load(folder), dsv4.Tokenizer.load(folder)
    ids = [model.config.bos_token_id, *tokenizer.encode(PROMPT)]
    us = parts(model)
    rows = [
        compare(model, ids, temperature, least, flags.rounds)
        for temperature in (0.0, 1.0)
        for least in flags.confidence
    ]
    for row in rows:
        row["limit"] = limit(us, row["verified"], row["accepted"])
    report = {
        "checkpoint": folder.name,
        "machine": f"{platform.machine()}, {flags.threads} thread(s)",
        "rounds": flags.rounds,
        "tokens": TOKENS,
        "parts_us": us,
        "rows": rows,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if flags.out:
        flags.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
