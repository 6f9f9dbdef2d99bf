"""`load`: a folder in the released layout → a model that is ready to run."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import torch

from dsv4.checkpoint.official import load_into
from dsv4.checkpoint.reader import Checkpoint
from dsv4.model.transformer import Transformer


def packaged() -> Path:
    """The folder of the small trained model that comes with dsv4."""
    return Path(str(resources.files("dsv4"))) / "nano"


def load(
    path: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Transformer:
    """Read the checkpoint in `path` (default: the packaged nano model) as a model in `dtype`.

    FP8 and FP4 weights are dequantised. Raises CheckpointError for files that are missing, broken
    or do not fit their config, ConfigError for a config that no model can be built from.
    """
    checkpoint = Checkpoint(packaged() if path is None else path)
    model = Transformer(checkpoint.config, dtype).to(device)
    load_into(model, checkpoint)
    return model.eval()
