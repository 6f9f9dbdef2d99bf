"""Train the recipes of benchmarks/ablations on one budget of tokens, and compare them.

    python benchmarks/ablate.py TEXT [--out FOLDER] [--seeds 3] [--jobs 2]
        [--results FILE] [--plot FILE]

TEXT is a folder that `dsv4 data build` wrote. Each run is `dsv4 train RECIPE seed=N …` in a process
of one thread, `--jobs` of them at once, in FOLDER/RECIPE-seed; one that ended is not run again, one
that was stopped goes on. Muon's and AdamW's rates are chosen first, each among RATES, by seed 0.

`steps` to a loss: the held-out loss is measured every few steps, the crossing is interpolated.
Processor time a token counts what a process used, evaluation included: others may use the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RATES = {"base": (5e-3, 1e-2, 2e-2, 4e-2), "adamw": (1e-3, 2e-3, 4e-3, 8e-3)}
OTHERS = ("one_stream", "full_attention", "learned_routing", "no_mtp")
MEASURE = "bits_per_byte"


class Run(NamedTuple):
    """One training: a recipe of benchmarks/ablations, its rate and seed."""

    recipe: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.recipe}-{self.lr:g}-{self.seed}"


def train(run: Run, text: Path, out: Path) -> Path:
    """The run's metrics, trained unless they are there."""
    folder = out / run.name
    if not (folder / "spent.json").exists():
        words = [f"{HERE}/ablations/{run.recipe}.py", f"lr={run.lr}", f"seed={run.seed}"]
        words += [f"text={text}", "--out", str(folder), "--threads", "1"]
        if any(folder.glob("checkpoints/step-*")):
            words.append("--resume")
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with (folder / "log.txt").open("a") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "dsv4", "train", *words],
                stdout=log,
                stderr=log,
                env=environment,
            )
            _, status, usage = os.wait4(child.pid, 0)
        if status:
            raise RuntimeError(f"{run.name} failed: see {folder}/log.txt")
        spent = {"seconds": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}
        (folder / "spent.json").write_text(json.dumps(spent))
        print(f"{run.name}: {final(curve(folder)):.4f} {MEASURE}", flush=True)
    return folder


def curve(folder: Path) -> list[tuple[int, float]]:
    """(step, bits a byte held out), as often as it was measured."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row[MEASURE]) for row in rows if MEASURE in row]


def final(points: Sequence[tuple[int, float]]) -> float:
    """The last of a curve."""
    return points[-1][1]


def steps_to(points: Sequence[tuple[int, float]], goal: float) -> float | None:
    """The step at which a curve first comes down to `goal`; None where it never does."""
    for (step, above), (after, below) in pairwise(points):
        if below <= goal:
            return step + (after - step) * (above - goal) / (above - below)
    return None


def row(folders: Sequence[Path], base: Sequence[Path], goal: float) -> dict[str, Any]:
    """What the seeds of one recipe say, also seed by seed beside those of `base`."""
    curves = [curve(folder) for folder in folders]
    apart = [final(a) - final(curve(b)) for a, b in zip(curves, base, strict=True)]
    ends = [final(points) for points in curves]
    spent = [json.loads((folder / "spent.json").read_text()) for folder in folders]
    reached = [steps_to(points, goal) for points in curves]
    return {
        MEASURE: mean(ends),
        "spread": stdev(ends) if len(ends) > 1 else None,
        "ends": ends,
        "from_base": mean(apart),
        "from_base_spread": stdev(apart) if len(apart) > 1 else None,
        "steps_to_adamw": None if None in reached else mean(filter(None, reached)),
        "cpu_seconds": median(one["seconds"] for one in spent),
        "peak_mib": median(one["peak_mib"] for one in spent),
        "curve": [
            [step, mean(points[n][1] for points in curves)] for n, (step, _) in enumerate(curves[0])
        ],
    }


def compare(text: Path, out: Path, seeds: int, jobs: int) -> dict[str, Any]:
    """All runs, and a row for each recipe."""
    with ThreadPoolExecutor(jobs) as pool:

        def trained(runs: Sequence[Run]) -> list[Path]:
            return list(pool.map(lambda run: train(run, text, out), runs))

        tries = [Run(recipe, lr, 0) for recipe, rates in RATES.items() for lr in rates]
        tuned = {run: final(curve(path)) for run, path in zip(tries, trained(tries), strict=True)}
        best = {
            recipe: min(rates, key=lambda lr: tuned[Run(recipe, lr, 0)])
            for recipe, rates in RATES.items()
        }
        best |= dict.fromkeys(OTHERS, best["base"])
        runs = {
            recipe: [Run(recipe, lr, seed) for seed in range(seeds)] for recipe, lr in best.items()
        }
        trained([run for some in zip(*runs.values(), strict=True) for run in some])
    folders = {recipe: [out / run.name for run in each] for recipe, each in runs.items()}
    goal = mean(final(curve(folder)) for folder in folders["adamw"])
    last = (folders["base"][0] / "metrics.jsonl").read_text().splitlines()[-1]
    return {
        "tokens": json.loads(last)["tokens"],
        "rates": {run.name: end for run, end in tuned.items()},
        "rows": {
            recipe: {"lr": best[recipe]} | row(each, folders["base"], goal)
            for recipe, each in folders.items()
        },
    }


def plot(found: dict[str, Any], file: Path) -> None:
    """Bits a byte by step, a line for each recipe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for recipe, each in found["rows"].items():
        steps, bits = zip(*each["curve"], strict=True)
        axes.plot(steps, bits, label=f"{recipe} {each[MEASURE]:.3f}", linewidth=1.4)
    axes.set_xlabel("step"), axes.set_ylabel("bits per byte, held out")
    axes.set_ylim(top=min(3.2, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    found = compare(options.text, options.out, options.seeds, options.jobs)
    if options.results:
        options.results.write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        plot(found, options.plot)
    for recipe, each in found["rows"].items():
        print(f"{recipe:16} {each['lr']:g} {each[MEASURE]:.4f} ± {each['spread'] or 0:.4f}")


if __name__ == "__main__":
    main()
