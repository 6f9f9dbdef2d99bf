"""Bits a byte of checkpoints on the same documents: python benchmarks/compare.py TEXT CKPT …

TEXT is a folder of `dsv4 data build`; documents are read one after another, each by a checkpoint's
own tokenizer, up to LETTERS of each and BYTES of each source.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import dsv4
from dsv4.data.prepared import open_sources
from dsv4.data.tokens import TokenFile

LETTERS, BYTES = 6000, 40_000


def documents(file: TokenFile, tokenizer: dsv4.Tokenizer) -> Iterator[str]:
    """The texts of a source, without what begins and ends them."""
    read = 0
    for first, last in zip(file.offsets[:-1].tolist(), file.offsets[1:].tolist(), strict=True):
        text = tokenizer.decode(file.read(first + 1, last - 1).tolist())[:LETTERS]
        yield text
        read += len(text.encode())
        if read > BYTES:
            return


@torch.inference_mode()
def bits(model: dsv4.Transformer, tokenizer: dsv4.Tokenizer, texts: list[str]) -> float:
    """Bits a byte, the end included."""
    nats = 0.0
    for text in texts:
        begin, end = model.config.bos_token_id, model.config.eos_token_id
        ids = torch.tensor([[begin, *tokenizer.encode(text, special=True), end]])
        scores = model(ids, model.new_cache(1)).float().log_softmax(-1)
        nats -= scores[0, :-1].gather(-1, ids[0, 1:, None]).sum().item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def main(folder: Path, checkpoints: list[str]) -> None:
    """Print a row for each source."""
    own = dsv4.Tokenizer.load(folder)
    loaded = [(dsv4.load(path), dsv4.Tokenizer.load(path)) for path in checkpoints]
    for source in open_sources(folder, "validation"):
        texts = list(documents(source.file, own))
        found = "  ".join(f"{bits(*each, texts):.3f}" for each in loaded)
        print(f"{source.name:12} {len(texts):4} documents  {found}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
