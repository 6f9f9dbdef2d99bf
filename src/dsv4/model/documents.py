"""Rows of several documents laid end to end: a document sees, compresses and counts itself alone.

A token's position is its distance from its document's first token. Block k of a document ends at
its token (k + 1)·m − 1; the tokens after its last whole block make no entry. Entries of a row stand
in the order of their documents, so those that a query sees are one range of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsv4.model.span import Place, QueryBlock, Span


class _Entries(NamedTuple):
    """The entries of one ratio, by the columns of the span."""

    low: Tensor  # int64 [b, n]: the first entry of the column's document
    high: Tensor  # int64 [b, n]: the first entry that the column does not see
    ends: Tensor  # int64 [b, closing]: the columns that close a block, the last one repeated
    numbers: Tensor  # int64 [b, closing]: the number of that block in its document
    ranges: list[tuple[int, int]]  # of each column: the least low and the greatest high of all rows


class DocumentSpan(Span):
    """Columns `first` … `first + n − 1` of rows that hold documents of the lengths
    `documents[b]`, and padding after them.

    With `first` > 0 the columns before are another span's, of which a state tells. Raises
    ValueError for lengths that are not positive.
    """

    def __init__(
        self,
        documents: Sequence[Sequence[int]],
        n: int,
        window: int,
        device: Any,
        places: Sequence[Place],
        first: int = 0,
    ):
        real = [sum(lengths) for lengths in documents]
        held = [min(max(length - first, 0), n) for length in real]
        super().__init__([first] * len(real), n, held, window, device, places)
        self.uniform = False
        self.documents, self.first = documents, first
        self.width = max(first + n, *real)
        self.begins = torch.stack([self._begins(lengths) for lengths in documents])  # [b, width]
        self._columns = torch.arange(self.width, device=device)
        self._place = self._columns - self.begins  # [b, width]

    def _begins(self, lengths: Sequence[int]) -> Tensor:
        """The column where each column's document begins: int64 [width]. Padding is one more."""
        if any(type(length) is not int or length < 1 for length in lengths):
            raise ValueError(f"documents of lengths {list(lengths)}: each must be at least 1")
        sizes = torch.tensor([*lengths, self.width - sum(lengths)])
        begins = sizes.cumsum(0) - sizes
        return begins.repeat_interleave(sizes).to(self.device)

    @property
    def _own(self) -> slice:
        return slice(self.first, self.first + self.n)

    @cached_property
    def positions(self) -> Tensor:
        """Position of each column in its document: int64 [b, n]."""
        return self._place[:, self._own]

    # ---- queries ---------------------------------------------------------------------------

    def _query_block(self, first: int, last: int) -> QueryBlock:
        begins = self.begins[:, self.first + first : self.first + last]  # [b, queries]
        before = self.first - self.previous  # the columns that no key is of
        earliest = int(begins[:, 0].min())
        low = max(before, self.first + first - (self.window - 1), earliest)
        key = self._columns[low : self.first + last]
        query = self._columns[self.first + first : self.first + last].unsqueeze(1)
        mask = (key <= query) & (key > query - self.window) & (key >= begins.unsqueeze(2))
        return QueryBlock(first, last, slice(low - before, self.first + last - before), mask)

    def _window_range(self) -> tuple[Tensor, Tensor]:
        own = self._columns[self._own]
        before = self.first - self.previous
        low = torch.maximum(own + 1 - self.window, self.begins[:, self._own]).clamp(min=before)
        return low - before, own + 1 - before

    def _entry_range(self, ratio: int) -> tuple[Tensor, Tensor]:
        found = self._entries_of(ratio)
        return found.low, found.high

    def visible(self, ratio: int, block: QueryBlock) -> slice:
        """The compressed entries that some query of the block sees."""
        ranges = self._entries_of(ratio).ranges
        return slice(ranges[block.first][0], ranges[block.last - 1][1])

    def entries_mask(self, ratio: int, block: QueryBlock) -> Tensor | None:
        """Those of them that each query sees: bool [b, queries, entries]."""
        found, seen = self._entries_of(ratio), self.visible(ratio, block)
        entry = torch.arange(seen.start, seen.stop, device=self.device)
        low, high = (bound[:, block.first : block.last, None] for bound in (found.low, found.high))
        return (entry >= low) & (entry < high)

    # ---- compressed blocks -------------------------------------------------------------------

    def _entries_of(self, ratio: int) -> _Entries:
        found: _Entries = self.once(("documents", ratio), lambda: self._find(ratio))
        return found

    def closes(self, ratio: int) -> Tensor:
        """Which columns of the whole rows close a block: bool [b, width]."""
        real = torch.tensor([sum(lengths) for lengths in self.documents], device=self.device)
        return ((self._place + 1) % ratio == 0) & (self._columns < real.unsqueeze(1))

    def _find(self, ratio: int) -> _Entries:
        closes = self.closes(ratio)
        through = closes.cumsum(1)  # entries closed up to and with each column [b, width]
        low = (through - closes.long()).gather(1, self.begins)[:, self._own]
        high = through[:, self._own]
        ours = closes[:, self._own]
        column = torch.where(ours, self._columns[self._own], self.width)  # others sort last
        counts = ours.sum(1, keepdim=True)
        closing = int(counts.max())
        ends = column.sort(dim=1).values[:, :closing].clamp(max=self.first + self.n - 1)
        numbers = (self._place.gather(1, ends) + 1) // ratio - 1
        numbers = numbers.masked_fill(torch.arange(closing, device=self.device) >= counts, 0)
        ranges = list(zip(low.amin(0).tolist(), high.amax(0).tolist(), strict=True))
        return _Entries(low, high, ends, numbers, ranges)

    def closing(self, ratio: int) -> int:
        """The most blocks that close in any row."""
        return self._entries_of(ratio).ends.shape[1]

    def total(self, ratio: int) -> int:
        """The most entries of any row after the span."""
        return self._entries_of(ratio).ranges[-1][1]

    def block_index(self, ratio: int) -> Tensor:
        """The closing blocks' numbers in their documents: int64 [b, closing], 0 beyond them."""
        return self._entries_of(ratio).numbers

    def before(self, ratio: int, *, overlaps: bool) -> int:
        """Raw rows before the span that its closing blocks are made of, at most."""
        return min(self.first, (2 * ratio if overlaps else ratio) - 1)

    def block_rows(self, ratio: int, *, overlaps: bool) -> Tensor | None:
        """The raw rows of each closing block, CSA: and of the one before the first: int64
        [b, closing (+ 1) · ratio]. A block with none before it in its document gets another's."""
        ends = self._entries_of(ratio).ends
        if overlaps:
            ends = torch.cat((ends[:, :1] - ratio, ends), dim=1)
        offset = torch.arange(1 - ratio, 1, device=self.device)
        rows = ends.unsqueeze(2) + offset - self.first + self.before(ratio, overlaps=overlaps)
        return rows.flatten(1).clamp(min=0)
