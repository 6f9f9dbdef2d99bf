"""How a row of the cache is stored: as floats, or as the bytes of quant/entries.py.

Every reader decodes what was encoded, in prefill as in decoding, so that a query sees the same
entry whenever it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dsv4.quant import entries, hadamard


class RowFormat(Protocol):
    """`width` elements of `dtype` hold one row."""

    @property
    def width(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, x: Tensor) -> Tensor:
        """x float [.., channels] → rows [.., width]."""

    def decode(self, rows: Tensor) -> Tensor:
        """rows [.., width] → float [.., channels]."""


@dataclass(frozen=True)
class FloatRows:
    """Rows as they are."""

    width: int
    dtype: torch.dtype

    def encode(self, x: Tensor) -> Tensor:
        """The same tensor."""
        return x

    def decode(self, rows: Tensor) -> Tensor:
        """The same tensor."""
        return rows


@dataclass(frozen=True)
class StraightRows:
    """Floats, rounded as bytes would round them; training sees through it."""

    width: int
    dtype: torch.dtype
    rounded: Callable[[Tensor], Tensor]

    def encode(self, x: Tensor) -> Tensor:
        """x [.., channels], rounded."""
        return self.rounded(x)

    def decode(self, rows: Tensor) -> Tensor:
        """The same tensor."""
        return rows


@dataclass(frozen=True)
class EntryRows:
    """Entries of c channels, FP8 but for the last r, which are BF16; decoded to `values`."""

    channels: int
    rotary: int
    values: torch.dtype
    dtype: torch.dtype = torch.uint8

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return entries.entry_bytes(self.channels, self.rotary)

    def encode(self, x: Tensor) -> Tensor:
        """x [.., c] → uint8 [.., width]."""
        return entries.pack_entry(x, self.rotary)

    def decode(self, rows: Tensor) -> Tensor:
        """uint8 [.., width] → [.., c]."""
        return entries.unpack_entry(rows, self.channels, self.rotary, self.values)


@dataclass(frozen=True)
class KeyRows:
    """Indexer keys, rotated by Hadamard and FP4. Queries take the same way to lose the same.

    Channels that are no power of two are not rotated: scores need no rotation, and FP4's blocks of
    32 hold an outlier in check without it, if less well.
    """

    channels: int
    dtype: torch.dtype = torch.uint8

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return entries.key_bytes(self.channels)

    def encode(self, x: Tensor) -> Tensor:
        """x [.., ic] → uint8 [.., width]; a rotated x is rounded to its own dtype first."""
        turned = hadamard.rotate(x) if hadamard.can_rotate(self.channels) else x
        return entries.pack_key(turned)

    def decode(self, rows: Tensor) -> Tensor:
        """uint8 [.., width] → float32 [.., ic], rotated."""
        return entries.unpack_key(rows, self.channels)
