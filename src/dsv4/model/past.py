"""What a layer reads of the tokens before its span, wherever it lies.

A cache (model/cache.py) holds it for the next call; where the columns of a row are divided among
processes it comes from the others, in the middle of the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dsv4.model.span import Span


class Recent(Protocol):
    """Rows of every token, of which the last ones are wanted."""

    def extend(self, span: Span, new: Tensor, count: int) -> Tensor:
        """Keep the span's rows, new [b, n, width] → the `count` before them, then they:
        [b, count + n, width]; junk before position 0."""
        ...


class Closed(Protocol):
    """One row for each closed block."""

    def extend(self, span: Span, new: Tensor) -> Tensor:
        """Keep the entries of the blocks that the span closes, new [b, closing, width] → all that
        each sequence has by then: [b, total, width]; junk where one has less."""
        ...


class CompressorPast(Protocol):
    """What one compressor reads of the past."""

    @property
    def tail(self) -> Recent:
        """Raw rows."""
        ...

    @property
    def entries(self) -> Closed:
        """Entries of closed blocks."""
        ...


class LayerPast(Protocol):
    """What one layer reads of the past: of its own cache, or of other processes."""

    @property
    def window(self) -> Recent:
        """Window entries."""
        ...

    @property
    def compressor(self) -> CompressorPast | None:
        """Of HCA and CSA layers."""
        ...

    @property
    def indexer(self) -> CompressorPast | None:
        """Of CSA layers."""
        ...


@dataclass(frozen=True)
class Past:
    """The columns before those of a batch of rows: `first` of them, and each layer's part (an MTP
    block's is the last)."""

    first: int
    layers: Sequence[LayerPast]
