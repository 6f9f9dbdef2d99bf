"""Rows of ids and their targets, documents apart.

targets[t] = ids[t + 1], mtp_targets[t] = ids[t + 2] within a document; IGNORE where that would
leave it, and on padding. The last id of a cut piece still has the document's next id as its target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsv4.data.stream import Row
from dsv4.data.tokens import TokenFile

IGNORE = -100


@dataclass(frozen=True)
class Rows:
    """int64 [rows, seq_len] each, and the lengths of every row's documents."""

    ids: np.ndarray
    next_ids: np.ndarray  # the targets before masking: what MTP embeds; `pad` at a document's end
    targets: np.ndarray
    mtp_targets: np.ndarray
    documents: list[list[int]]


def lay(rows: Sequence[tuple[TokenFile, Row]], seq_len: int, pad: int) -> Rows:
    """The rows, each padded with `pad` to `seq_len`."""
    wide = np.full((3, len(rows), seq_len), pad, dtype=np.int64)  # ids, next, after next
    for number, (file, row) in enumerate(rows):
        at = 0
        for start, length, end in row:
            found = file.read(start, min(start + length + 2, end))
            for shift in range(3):
                part = found[shift : shift + length]
                wide[shift, number, at : at + len(part)] = part
                wide[shift, number, at + len(part) : at + length] = IGNORE if shift else pad
            at += length
        wide[1:, number, at:] = IGNORE
    ids, targets, after = wide
    documents = [[span.length for span in row] for _, row in rows]
    next_ids = np.where(targets == IGNORE, pad, targets)
    return Rows(ids, next_ids, targets, after, documents)
