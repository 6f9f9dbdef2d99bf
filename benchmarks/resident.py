"""Weights larger than memory: speed and peak resident set of V4-Flash's layers under caps.

    python benchmarks/resident.py make FOLDER [--layers 3]     # about 10 GB, outside the repository
    python benchmarks/resident.py run FOLDER [--caps none 4GiB 2GiB 1.2GiB]

`make` writes a checkpoint of V4-Flash's own layer shapes, one layer of each kind, in the released
layout: random codes and sane scales, nano's tokenizer and so a vocabulary of 8,192. `run` generates
greedily after a prompt whose prefill chooses nearly every expert, each cap in a process of its own,
twice: with the files in the page cache, and with the cache emptied before every step of what the
process has given back, which is then read from the disk as on a machine whose memory ends there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import dsv4
from dsv4.checkpoint.folder import TOKENIZER_FILES, shard_file, write_generation_config, write_index
from dsv4.checkpoint.layout import TensorSpec, layout
from dsv4.checkpoint.load import packaged
from dsv4.checkpoint.writer import ShardLayout, ShardWriter, by_file
from dsv4.cli.sizes import parse_size
from dsv4.generation import prefill
from dsv4.model.initial import hash_table

RESULTS = Path(__file__).parent / "results" / "resident.json"
SEED, PROMPT = 0, 256  # tokens
RATIOS = (0, 4, 128)  # a layer of each kind
MIB = 1 << 20


def config_of(layers: int) -> dsv4.Config:
    """V4-Flash with fewer layers and words; the first layer routes by token id."""
    return dsv4.Config.from_preset("flash").replace(
        vocab_size=8192,
        num_hidden_layers=layers,
        compress_ratios=RATIOS[:layers],
        num_hash_layers=1,
        num_nextn_predict_layers=0,
    )


def make(folder: Path, layers: int) -> None:
    """Write the checkpoint, tensor by tensor."""
    config = config_of(layers)
    folder.mkdir(parents=True)
    tensors = layout(config)
    generator = torch.Generator().manual_seed(SEED)
    files = by_file(tensors)
    for number, specs in enumerate(track(files, "writing", disable=not sys.stderr.isatty())):
        with ShardWriter(folder / shard_file(number, len(files)), ShardLayout(specs)) as shard:
            for name, spec in specs.items():
                shard.write(name, draw(name, spec, config, generator))
    write_index(folder, tensors)
    write_generation_config(folder, config)
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    for name in TOKENIZER_FILES:
        (folder / name).write_bytes((packaged() / name).read_bytes())


def draw(
    name: str, spec: TensorSpec, config: dsv4.Config, generator: torch.Generator
) -> torch.Tensor:
    """Random codes whose values, scaled, have about the spread of trained weights: 1/64."""
    if spec.dtype is torch.int8:  # E2M1 codes, any byte: a spread of 2.6
        return torch.randint(-128, 128, spec.shape, dtype=torch.int8, generator=generator)
    if spec.dtype is torch.float8_e8m0fnu:
        exponent = 127 - (7 if ".ffn.experts." in name else 6)
        return torch.full(spec.shape, exponent, dtype=torch.uint8).view(spec.dtype)
    if name.endswith("tid2eid"):
        return hash_table(config.vocab_size, config.n_routed_experts, spec.shape[1], generator)
    drawn = torch.randn(spec.shape, generator=generator)
    if spec.dtype is torch.float8_e4m3fn:
        return drawn.to(spec.dtype)
    if name.endswith("norm.weight"):
        drawn = 1 + 0.1 * drawn
    elif not name.startswith("embed"):
        drawn /= 64
    return drawn.to(spec.dtype)


# ---- one process: one cap ------------------------------------------------------------------------


@torch.inference_mode()
def work(folder: Path, cap: int | None, from_disk: bool, steps: int) -> dict[str, object]:
    """Prefill, then `steps` greedy tokens."""
    torch.set_num_threads(2)
    model = dsv4.load(folder, max_resident=cap)
    ids = torch.randint(8192, (PROMPT,), generator=torch.Generator().manual_seed(SEED)).tolist()
    cache = model.new_cache(1)
    (empty_cache if from_disk else fill_cache)(folder)
    start = time.perf_counter()
    logits = prefill(model, [ids], cache)
    first = time.perf_counter() - start
    digest, seconds = hashlib.sha256(logits.numpy().tobytes()), []
    for _ in range(steps):
        if from_disk:
            empty_cache(folder)
        start = time.perf_counter()
        logits = model(logits.argmax().view(1, 1), cache)
        seconds.append(time.perf_counter() - start)
        digest.update(logits.numpy().tobytes())  # the token follows from them
    return {
        "prefill": PROMPT / first,
        "decode": steps / sum(seconds),
        "peak": peak(),
        "digest": digest.hexdigest(),
    }


def empty_cache(folder: Path) -> None:
    """Drop from the page cache what no process has mapped."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill_cache(folder: Path) -> None:
    """Read every file once."""
    buffer = bytearray(1 << 24)
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def peak() -> int:
    """The largest resident set that this process had, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


# ---- all of them ---------------------------------------------------------------------------------


def run(folder: Path, caps: list[str], steps: int) -> None:
    """Measure every cap and keep the figures."""
    rows = []
    for cap in caps:
        row: dict[str, Any] = {"cap": cap}
        for source in ("page cache", "disk"):
            command = [sys.executable, __file__, "work", str(folder), "--cap", cap]
            command += ["--steps", str(steps), *(["--disk"] if source == "disk" else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            row[source] = json.loads(done.stdout)
            print(cap, source, row[source], flush=True)
        rows.append(row)
    whole = rows[0]["page cache"]
    for row in rows:
        runs = [row.pop(source) for source in ("page cache", "disk")]
        row["same"] = all(run["digest"] == whole["digest"] for run in runs)
        row["peak MiB"] = max(r["peak"] for r in runs) / MIB
        for kind in ("prefill", "decode"):
            row[kind], row[f"{kind} from disk"] = (r[kind] for r in runs)
    config = dsv4.Config.load(folder)
    experts = (spec.nbytes for name, spec in layout(config).items() if ".ffn.experts." in name)
    report = {
        "layers": config.num_hidden_layers,
        "prompt": PROMPT,
        "steps": steps,
        "experts GiB": sum(experts) / 2**30,
        "machine": f"{platform.machine()}, 2 threads, torch {torch.__version__}",
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Make the checkpoint, measure, or be one measurement's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("make", "run", "work"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=len(RATIOS), choices=(2, 3))
    parser.add_argument("--caps", nargs="+", default=["none", "4GiB", "2GiB", "1.2GiB"])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--cap", default="none", help="of one process")
    parser.add_argument("--disk", action="store_true", help="read again what was given back")
    args = parser.parse_args()
    if args.what == "make":
        make(args.folder, args.layers)
    elif args.what == "run":
        run(args.folder, args.caps, args.steps)
    else:
        cap = None if args.cap == "none" else parse_size(args.cap, "--cap")
        print(json.dumps(work(args.folder, cap, args.disk, args.steps)))


if __name__ == "__main__":
    main()
