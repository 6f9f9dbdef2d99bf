"""Training in float32 and in mixed precision against transformers: the same weights and threads.

    python benchmarks/training.py [--rounds 3] [--threads 2] [--only 512] \
        [--out benchmarks/results/training.json]

Shape `18M` computes the loss of a batch and all gradients; with the real vocabulary of 129,280 the
optimizer's step too (dsv4: Muon and AdamW; transformers: AdamW). Rounds of the three sides
alternate; what is reported are medians of tokens/s, and of the rounds' ratios. Peak memory is that
of a process of its own for each side, which makes two steps. As in the command `dsv4`, torch's
threads sleep between its operators; transformers is no slower for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is imported

import torch
import torch.nn.functional as F
import transformers
from bound import matrix_rate, training_operations
from peers import SEED, random_ids, seconds
from shapes import SHAPES

from dsv4 import Config, Transformer
from dsv4.checkpoint import official
from dsv4.model.precision import MIXED
from dsv4.train.loss import linear_cross_entropy
from dsv4.train.optim import optimizers

SIDES = ("transformers", "float32", "mixed")
CASES = {  # batch, tokens of a row, vocabulary, whether the optimizer steps
    "8 × 512": (8, 512, 8192, False),
    "2 × 2048": (2, 2048, 8192, False),
    "1 × 4096": (1, 4096, 8192, False),
    "8 × 512, 129,280 words, with the optimizer": (8, 512, 129280, True),
    "2 × 2048, 129,280 words, with the optimizer": (2, 2048, 129280, True),
}
MIB = 1 << 20


def config_of(vocab: int) -> Config:
    """Shape 18M without its draft, which transformers does not train."""
    full = SHAPES["18M"]
    ratios = full.compress_ratios[: full.num_hidden_layers]
    return full.replace(num_nextn_predict_layers=0, compress_ratios=ratios, vocab_size=vocab)


def sides_of(case: str, names: tuple[str, ...]) -> list[Callable[[], object]]:
    """One training step of each named side."""
    batch, n, vocab, steps = CASES[case]
    config, ids = config_of(vocab), random_ids(batch, n, vocab)
    plain = Transformer(config)
    plain.initialize(SEED)
    made: list[Callable[[], object]] = []
    for name in names:
        if name == "transformers":
            made.append(theirs(plain, ids, steps=steps))
        else:
            model = Transformer(config, precision=MIXED if name == "mixed" else None)
            model.load_state_dict(plain.state_dict())
            made.append(ours(model, ids, steps=steps))
    return made


def ours(model: Transformer, ids: torch.Tensor, *, steps: bool) -> Callable[[], object]:
    """dsv4's loss, gradients and perhaps step."""
    rules = optimizers(model.train(), model.config, lr=1e-3) if steps else []

    def step() -> None:
        hidden = model.collapse(model.streams(ids))[:, :-1].flatten(0, 1)
        low = model.precision.low
        linear_cross_entropy(hidden, model.head.weight, ids[:, 1:].flatten(), low=low).backward()
        for rule in rules:
            rule.step()
        model.zero_grad(set_to_none=True)

    return step


def theirs(plain: Transformer, ids: torch.Tensor, *, steps: bool) -> Callable[[], object]:
    """transformers' loss, gradients and perhaps step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        official.save(plain.state_dict(), plain.config, path)
        model = transformers.DeepseekV4ForCausalLM.from_pretrained(path, dtype=torch.float32)
    rule = torch.optim.AdamW(model.train().parameters(), lr=1e-3) if steps else None

    def step() -> None:
        logits = model(ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        F.cross_entropy(logits.float(), ids[:, 1:].flatten()).backward()
        if rule is not None:
            rule.step()
        model.zero_grad(set_to_none=True)

    return step


def peak(case: str, side: str, threads: int) -> float:
    """MiB at the highest moment of two steps, in a process of its own."""
    here = Path(__file__)
    own = [str(here), "--threads", str(threads), "--case", case, "--side", side]
    command = [sys.executable, str(here.with_name("peak.py")), sys.executable, *own]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(found.stderr.strip().splitlines()[-1]) / MIB


def measure(case: str, rounds: int, threads: int) -> dict:
    """Alternate the sides; tokens/s of each, the ratios to transformers and peak memory."""
    batch, n, vocab, _ = CASES[case]
    steps = sides_of(case, SIDES)
    for step in steps:
        step()
    times = [[seconds(step) for step in steps] for _ in range(rounds)]
    del steps
    rates = [[batch * n / t[side] for t in times] for side in range(len(SIDES))]
    bound = matrix_rate(torch.float32) / training_operations(config_of(vocab), n) * n
    row: dict = {"what": case, "bound": bound}
    for side, name in enumerate(SIDES):
        row[name] = statistics.median(rates[side])
        row[f"{name} ratio"] = statistics.median(
            own / peer for own, peer in zip(rates[side], rates[0], strict=True)
        )
        row[f"{name} MiB"] = peak(case, name, threads)
    print(json.dumps(row, ensure_ascii=False))
    return row


def main() -> None:
    """Measure, print, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="measure only rows whose name contains this")
    parser.add_argument("--case", help="make two steps of one --side, for its peak memory")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.case:
        (step,) = sides_of(args.case, (args.side,))
        step(), step()
        return
    cases = [case for case in CASES if args.only in case]
    rows = [measure(case, args.rounds, args.threads) for case in cases]
    if args.out:
        machine = f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}"
        report = {"shape": "18M", "machine": machine, "rounds": args.rounds, "rows": rows}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
