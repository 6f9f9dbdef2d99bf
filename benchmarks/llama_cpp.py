"""dsv4 against llama.cpp on a CPU: the same quantised checkpoint, the same threads.

    python benchmarks/llama_cpp.py 22M CHECKPOINT GGUF --llama-bench PATH [--rounds 5] [--out FILE]

Rounds of the two sides alternate, since a machine's speed drifts; what is reported is the median of
each side's tokens/s and the median of the rounds' ratios. Beside them stands the bound (bound.py),
from a bandwidth and a matrix rate that are measured anew for each row. Only one side is measured
with --only-side. docs/llama_cpp.md says how to come by CHECKPOINT, GGUF and llama-bench.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bound
import torch
from shapes import SHAPES

HERE = Path(__file__).parent
CONTEXTS = {"22M": (0, 512, 4096, 16384, 32768), "2B": (0, 512, 4096, 16384)}
PROMPTS = (512, 4096, 16384)
DEEP = 16384  # from here a round takes minutes: there are fewer of them
SHORT = 512  # a longer prompt needs no warm-up run, which would double its time
FLAGS = "-fa on"  # llama.cpp's faster choice; its defaults for the rest
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """`decode` of `steps` tokens after n others, or `prefill` of n tokens."""

    kind: str
    n: int
    steps: int

    def __str__(self) -> str:
        return f"decode after {self.n}" if self.kind == "decode" else f"prefill {self.n}"


class Dsv4:
    """dsv4 in a process that lives as long as the case; one run a line (dsv4_side.py)."""

    def __init__(self, case: Case, args: argparse.Namespace):
        command = [sys.executable, HERE / "dsv4_side.py", args.checkpoint, case.kind, case.n]
        command += ["--steps", case.steps, "--threads", args.threads]
        command += ["--mode", args.mode] if args.mode else []
        command += ["--copy"] if args.copy else []
        self._process = subprocess.Popen(
            [sys.executable, HERE / "peak.py", *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": str(args.threads)},
            text=True,
        )
        while self._read() != "ready\n":  # whatever dsv4 says at start-up comes before
            pass

    def run(self) -> float:
        """Tokens/s of one run."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> int:
        """End the process; its peak memory in bytes."""
        _, errors = self._process.communicate()
        return _peak(errors)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the dsv4 side ended:\n{self._process.communicate()[1]}")
        return line


class LlamaCpp:
    """llama-bench, a process for each run: it offers no other way to alternate."""

    def __init__(self, case: Case, args: argparse.Namespace):
        self._peak = 0
        self._command = [sys.executable, HERE / "peak.py", args.llama_bench, "-m", args.gguf]
        self._command += ["-t", args.threads, "-r", 1, "-o", "json", *shlex.split(args.llama_flags)]
        if case.kind == "decode":
            self._command += ["-p", 0, "-n", case.steps, "-d", case.n]
        else:
            self._command += ["-p", case.n, "-n", 0]
            self._command += ["--no-warmup"] if case.n > SHORT else []

    def run(self) -> float:
        """Tokens/s of one run."""
        done = subprocess.run(list(map(str, self._command)), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"llama-bench failed:\n{done.stderr}")
        self._peak = max(self._peak, _peak(done.stderr))
        return float(json.loads(done.stdout)[0]["avg_ts"])

    def close(self) -> int:
        """The peak memory in bytes over all runs."""
        return self._peak


SIDES: dict[str, Any] = {"dsv4": Dsv4, "llama.cpp": LlamaCpp}


def measure(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Alternate the sides; medians over the rounds, peak memory, and the bound."""
    limit = ceiling(case, args.shape)
    sides = {name: SIDES[name](case, args) for name in args.sides}
    rounds = args.deep_rounds if case.n >= DEEP else args.rounds
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            rates[name].append(side.run())
    row: dict[str, Any] = {"what": str(case), "rounds": rounds, **limit, "rates": rates}
    for name, side in sides.items():
        row[name] = statistics.median(rates[name])
        row[f"{name} MiB"] = side.close() / MIB
    if len(sides) == 2:
        pairs = zip(*(rates[name] for name in SIDES), strict=True)
        row["ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
    print(line(row), flush=True)
    return row


def ceiling(case: Case, shape: str) -> dict[str, float]:
    """The bound in tokens/s, and what it is computed from."""
    config = SHAPES[shape]
    if case.kind == "decode":
        # the middle token of the run stands for all
        needed, rate = bound.decode_bytes(config, case.n + case.steps // 2), bound.read_bandwidth()
        return {"bound": rate / needed, "bytes per token": needed, "bytes/s": rate}
    operations = bound.prefill_operations(config, case.n) / case.n
    rate = max(bound.matrix_rate(dtype) for dtype in (torch.float32, torch.bfloat16))
    return {"bound": rate / operations, "operations per token": operations, "operations/s": rate}


def line(row: dict[str, Any]) -> str:
    """One row for the terminal."""
    parts = [f"{row['what']:20}"]
    for name in SIDES:
        if name in row:
            parts.append(f"{name} {row[name]:8.1f} tokens/s {row[f'{name} MiB']:6.0f} MiB")
    parts.append(f"bound {row['bound']:8.1f}")
    if "ratio" in row:
        share = row["dsv4"] / row["bound"]
        parts.append(f"×{row['ratio']:.2f}, {share:.0%} of the bound")
    return "  ".join(parts)


def _peak(errors: str) -> int:
    """What peak.py wrote last."""
    return int(errors.rsplit("\n", 2)[1])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=CONTEXTS)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--llama-bench", default=os.environ.get("LLAMA_BENCH", "llama-bench"))
    parser.add_argument("--llama-flags", default=FLAGS, help=f"default '{FLAGS}'")
    parser.add_argument("--mode", help="mode of dsv4.load; default: its own")
    parser.add_argument("--copy", action="store_true", help="dsv4.load(..., copy=True)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deep-rounds", type=int, default=3, help=f"from {DEEP} tokens on")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="measure only rows whose name contains this")
    parser.add_argument("--only-side", choices=SIDES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.sides = [args.only_side] if args.only_side else list(SIDES)
    return args


def main() -> None:
    """Measure, print, and write the rows as JSON."""
    args = arguments()
    torch.set_num_threads(args.threads)
    cases = [Case("decode", n, args.steps) for n in CONTEXTS[args.shape]]
    cases += [Case("prefill", n, args.steps) for n in PROMPTS]
    rows = [measure(case, args) for case in cases if args.only in str(case)]
    if args.out:
        report = {
            "shape": args.shape,
            "machine": f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}",
            "mode": args.mode,
            "copy": args.copy,
            "llama.cpp": args.llama_flags,
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
