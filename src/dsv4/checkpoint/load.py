"""`load`: a folder in the released layout → a model that is ready to run."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dsv4.checkpoint.official import load_into
from dsv4.checkpoint.packed import attach
from dsv4.checkpoint.reader import PACKED, Checkpoint
from dsv4.model.precision import EXACT, FAST
from dsv4.model.residency import Limit
from dsv4.model.transformer import Transformer
from dsv4.model.twin import install

MODES = {"fast": FAST, "exact": EXACT}


def packaged() -> Path:
    """The folder of the small trained model that comes with dsv4."""
    return Path(__file__).parent.parent / "nano"


def load(
    path: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    mode: str | None = None,
    max_resident: int | None = None,
    copy: bool = False,
    revision: str | None = None,
) -> Transformer:
    """Read the checkpoint in `path` (default: the packaged nano model).

    A quantised checkpoint stays as it is: FP8 and FP4 weights are views of the mapped files, the
    cache is FP8 and FP4 too, and `mode` says how it computes: "fast" (default), with activations
    in float32 that are rounded to bfloat16 where they meet a packed weight, or "exact", rounding
    as the release does (model/precision.py). With a `dtype` asked for, it is dequantised instead.
    Other checkpoints are read as `dtype`, by default float32. `model.mode` tells which it was.

    `max_resident`, in bytes, is a target for the process's resident set: a packed model then holds
    as many routed experts as fit, gives back the least recently used and reads them again from the
    files, which changes its speed and nothing else. Its weights must not be written to.

    The files must stay as they are while the model lives: where one is cut short, reading what is
    gone ends the process with SIGBUS, and what is written to one is computed with. `copy` does away
    with both; a new version beside the old, renamed over it, does no harm either.

    `copy` reads a packed model's files into memory of its own, in large pages where the system has
    them: decoding is faster by a quarter where weights are many, and loading takes its time.

    `revision` is that of the effort texts, 2026-04 or 2026-07, where the checkpoint's own
    (checkpoint/revision.py) is wrong or cannot be told.

    Raises CheckpointError for files that are missing, broken or do not fit their config,
    ConfigError for a config that no model can be built from, ValueError for a mode that is none
    or that does not apply, and for a max_resident that is too small or cannot be kept.
    """
    if copy and max_resident is not None:
        raise ValueError("copy = True holds the whole model in memory: leave out max_resident")
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode = {mode!r}: must be fast or exact")
    folder = packaged() if path is None else path
    checkpoint = Checkpoint(folder, copy=copy, revision=revision)
    if dtype is None and _is_quantised(checkpoint):
        with torch.device("meta"):
            model = Transformer(checkpoint.config, precision=MODES[mode or "fast"])
        mapped = attach(model, checkpoint)
        model = model.to(device).eval()
        limit = None if max_resident is None else Limit(max_resident, mapped)
        if not install(model, limit) and limit is not None:
            raise ValueError(
                f"max_resident = {max_resident:,} is kept by the native operators, which do not "
                "run this model here: install a C++20 compiler and dsv4 again, unset DSV4_NATIVE, "
                "keep the model on the CPU, or load it without max_resident"
            )
        return model
    for option, value in (("mode", mode), ("max_resident", max_resident), ("copy", copy or None)):
        if value is not None:
            why = "holds no FP8 or FP4 weights" if dtype is None else f"is dequantised to {dtype}"
            raise ValueError(
                f"{option} = {value!r} is for packed weights, and {checkpoint.path} {why}"
            )
    model = Transformer(checkpoint.config, dtype or torch.float32).to(device)
    load_into(model, checkpoint)
    return model.eval()


def _is_quantised(checkpoint: Checkpoint) -> bool:
    return any(tensor.dtype in PACKED for tensor in checkpoint.tensors.values())
