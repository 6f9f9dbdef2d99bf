"""Packed batches as tensors: rows of whole documents, best fit (`dsv4.data`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dsv4.data.errors import DataError
from dsv4.data.mixture import Mixture, in_order
from dsv4.data.prepared import open_sources
from dsv4.data.rows import IGNORE, Rows

__all__ = ["IGNORE", "Batch", "DataError", "PackedRows", "batch_of"]


@dataclass(frozen=True)
class Batch:
    """int64 [batch, seq_len] each; −100 in a target means: not counted.

    `documents`: the lengths of each row's documents, from its first token on; what they leave is
    padding. None: each row is one document.
    """

    ids: Tensor
    next_ids: Tensor  # the targets before masking: what MTP embeds
    targets: Tensor
    mtp_targets: Tensor
    documents: Sequence[Sequence[int]] | None = None
    first: int = 0  # which column of the rows is the first here


def batch_of(rows: Rows) -> Batch:
    """The same rows as tensors, which share their memory."""
    tensor = torch.from_numpy
    return Batch(
        tensor(rows.ids),
        tensor(rows.next_ids),
        tensor(rows.targets),
        tensor(rows.mtp_targets),
        rows.documents,
    )


class PackedRows:
    """Batches of a folder of prepared data (`dsv4.data.prepared`).

    Raises: DataError if a file is damaged, of another vocabulary, or nothing is held.
    """

    def __init__(self, folder: Path, part: str, *, seq_len: int, eos: int, seed: int, vocab: int):
        self.folder, self.sources = folder, open_sources(folder, part)
        for source in self.sources:
            source.file.check_fits(vocab)
        self.mixture = Mixture(self.sources, seed=seed, pad=eos)
        self.seq_len, self.eos = seq_len, eos

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text, control tokens counted as tokens."""
        headers = [source.file.header for source in self.sources]
        return sum(h.nbytes for h in headers) / sum(h.tokens for h in headers)

    def batch(self, step: int, size: int) -> Batch:
        """The batch of a step, the same whenever it is asked for: resuming needs no state."""
        self.mixture.seek(step * size, self.seq_len)
        return batch_of(self.mixture.next(size, self.seq_len))

    def in_order(self, size: int) -> Iterator[Batch]:
        """Every document of every source once, for validation."""
        for source in self.sources:
            yield from map(batch_of, in_order(source.file, size, self.seq_len, self.eos))
