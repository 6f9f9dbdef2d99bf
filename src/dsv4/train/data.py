"""Packed batches as tensors: rows of whole documents, best fit (`dsv4.data`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dsv4.data.errors import DataError
from dsv4.data.mixture import Mixture, Source, in_order
from dsv4.data.rows import IGNORE, Rows
from dsv4.data.tokens import TokenFile

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
    """Batches of one token file.

    Raises: DataError if the file is damaged, of another vocabulary, or holds no tokens.
    """

    def __init__(self, folder: Path, part: str, *, seq_len: int, eos: int, seed: int, vocab: int):
        self.file = TokenFile(folder, part)
        self.file.check_fits(vocab)
        self.file.verify()
        self.mixture = Mixture([Source(part, self.file)], seed=seed, pad=eos)
        self.seq_len, self.eos = seq_len, eos

    def batch(self, step: int, size: int) -> Batch:
        """The batch of a step, the same whenever it is asked for: resuming needs no state."""
        self.mixture.seek(step * size, self.seq_len)
        return batch_of(self.mixture.next(size, self.seq_len))

    def in_order(self, size: int) -> Iterator[Batch]:
        """Every document once, for validation."""
        return map(batch_of, in_order(self.file, size, self.seq_len, self.eos))
