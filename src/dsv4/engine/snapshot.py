"""A sequence's windows and tails, copied out of its slot and put back into another.

At length s a slot's rings hold rows of positions s − capacity … s − 1. A *wide* snapshot keeps them
all and can be put back at any of the lengths s − window … s; a *narrow* one keeps what length s
itself reads: the window, and of a compressor the open block and, on CSA, the block before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.config import LayerKind
from dsv4.model.cache import Ring, SequenceState, Stores


@dataclass(frozen=True)
class Snapshot:
    """The rows of every ring, oldest first, that a sequence of `length` tokens had."""

    length: int
    back: int  # how many tokens it can be put back earlier
    rows: list[Tensor]  # of each ring [some, width]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(rows.nbytes for rows in self.rows)


def take(stores: Stores, sequence: SequenceState, length: int, *, wide: bool) -> Snapshot:
    """Copy the state at `length`, which the sequence can step back to."""
    window = stores.config.sliding_window
    back = min(window, length - sequence.oldest(window)) if wide else 0
    rows = []
    for ring, needed in _rings(stores, length):
        count = min(length, ring.capacity if wide else needed)
        rows.append(torch.cat(_pieces(ring, sequence.slot, length, count)))
    return Snapshot(length, back, rows)


def put(stores: Stores, sequence: SequenceState, snapshot: Snapshot, length: int) -> None:
    """Make `sequence`, whose pages are in place, one of `length` tokens."""
    assert snapshot.length - snapshot.back <= length <= snapshot.length
    for (ring, _), rows in zip(_rings(stores, snapshot.length), snapshot.rows, strict=True):
        pieces = _pieces(ring, sequence.slot, snapshot.length, len(rows))
        for piece, some in zip(pieces, rows.split([len(piece) for piece in pieces]), strict=True):
            piece.copy_(some)
    sequence.length, sequence.known = length, 0
    # as if it had been as long as lets it step back to what the snapshot holds, and no further
    sequence.reached = snapshot.length - snapshot.back + stores.config.sliding_window


def _rings(stores: Stores, length: int) -> Iterator[tuple[Ring, int]]:
    """Every ring, and how many of its last rows a sequence of `length` tokens reads next."""
    config = stores.config
    for layer in stores.layers:
        yield layer.window, config.sliding_window - 1
        for part in (layer.compressor, layer.indexer):
            if part is not None:
                ratio = part.entries.ratio
                before = ratio if layer.kind is LayerKind.CSA else 0
                yield part.tail, length % ratio + before


def _pieces(ring: Ring, slot: int, length: int, count: int) -> list[Tensor]:
    """The places of the last `count` rows of a sequence of `length` tokens, as views in turn."""
    data, first = ring.data[slot], (length - count) % ring.capacity
    end = first + count
    if end <= ring.capacity:
        return [data[first:end]]
    return [data[first:], data[: end - ring.capacity]]
