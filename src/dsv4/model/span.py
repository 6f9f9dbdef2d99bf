"""Where the new tokens of one forward stand: positions start_b … start_b + n_b − 1 of sequence b.

Everything that depends on positions alone (rotary phases, ring slots, masks, which blocks close) is
worked out here once and shared by all layers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dsv4.ops import rotary

QUERY_BLOCK = 64  # queries attended at a time: bounds memory, and the waste of the window's band


class QueryBlock(NamedTuple):
    """Queries [first, last) of the span and the slice of window keys that they can see."""

    first: int
    last: int
    keys: slice  # of `previous + n` window entries
    mask: Tensor | None  # [b or 1, queries, keys], None where every key is visible


@dataclass(frozen=True)
class Rows:
    """Which rows of a [slots · capacity] or [pages · rows] store to write, as flat indices."""

    index: Tensor  # int64 [rows]
    source: Tensor | None = None  # flat rows of the new tokens to write; None means all of them


class Place(Protocol):
    """Where a sequence's state lies: its slot in the rings, its pages of entries in order."""

    slot: int
    pages: array[int]
    known: int  # the entries of so many first tokens are stored already, and stay


class Span:
    """n new columns after `starts[b]` earlier tokens of each sequence.

    `lengths[b] <= n` says how many columns of row b are real tokens; the rest is padding on the
    right, which is computed but never stored. `places[b]` says where sequence b's state lies.
    """

    def __init__(
        self,
        starts: list[int],
        n: int,
        lengths: list[int],
        window: int,
        device: Any,
        places: Sequence[Place],
    ):
        self.starts, self.n, self.lengths, self.window = starts, n, lengths, window
        self.device = device
        self.places = places
        self.uniform = len(set(starts)) == 1 and all(length == n for length in lengths)
        self.previous = min(window - 1, max(starts))  # window entries read from the cache
        self._memo: dict[tuple[Any, ...], Any] = {}

    def once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """make(), worked out by the first layer that asks for `key`."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence after the span."""
        return max(s + length for s, length in zip(self.starts, self.lengths, strict=True))

    @cached_property
    def start(self) -> Tensor:
        """Tokens before the span: int64 [b, 1], or [1, 1] when all sequences agree."""
        starts = self.starts[:1] if self.uniform else self.starts
        return torch.tensor(starts, device=self.device).unsqueeze(1)

    @cached_property
    def positions(self) -> Tensor:
        """Position of each column: int64 [b or 1, n]."""
        return self.start + torch.arange(self.n, device=self.device)

    def phases(self, rope: str, freqs: Tensor) -> Tensor:
        """Rotary phases of the columns by the frequencies named `rope`: [b or 1, n, r / 2]."""
        return self.once(("phases", rope), lambda: rotary.phases(self.positions, freqs))

    # ---- queries ---------------------------------------------------------------------------

    @cached_property
    def query_blocks(self) -> list[QueryBlock]:
        """The span cut into blocks of queries, each with its window keys and mask."""
        return [
            self._query_block(first, min(first + QUERY_BLOCK, self.n))
            for first in range(0, self.n, QUERY_BLOCK)
        ]

    def _query_block(self, first: int, last: int) -> QueryBlock:
        low = max(0, first + self.previous - (self.window - 1))
        high = last + self.previous
        if self.uniform and last - first == 1:
            return QueryBlock(first, last, slice(low, high), None)
        key = torch.arange(low, high, device=self.device)
        query = torch.arange(first, last, device=self.device).unsqueeze(1) + self.previous
        mask = (key <= query) & (key > query - self.window)  # [queries, keys]
        if not self.uniform:  # a short sequence has no tokens where a long one has
            mask = mask & (key >= self.previous - self.start.unsqueeze(2))
        return QueryBlock(first, last, slice(low, high), mask.view(-1, *mask.shape[-2:]))

    def visible(self, ratio: int, block: QueryBlock) -> slice:
        """The compressed entries that some query of the block sees."""
        return slice(0, min((max(self.starts) + block.last) // ratio, self.total(ratio)))

    def entries_mask(self, ratio: int, block: QueryBlock) -> Tensor | None:
        """Entry i is seen from position t if i < (t + 1) // ratio: [b or 1, queries, entries]. Made
        anew each time: of all blocks they are the square of a prompt."""
        visible = self.visible(ratio, block).stop
        if self.uniform and (self.starts[0] + block.first + 1) // ratio == visible:
            return None
        counts = (self.positions[:, block.first : block.last] + 1) // ratio
        return torch.arange(visible, device=self.device) < counts.unsqueeze(2)

    def window_range(self) -> Tensor:
        """The window rows [low, high) that each column sees: int32 [b, n, 2]."""
        found: Tensor = self.once(("window range",), lambda: self._ranges(*self._window_range()))
        return found

    def _window_range(self) -> tuple[Tensor, Tensor]:
        own = torch.arange(self.n, device=self.device) + self.previous
        return torch.maximum(own + 1 - self.window, self.previous - self.start), own + 1

    def entry_range(self, ratio: int) -> Tensor:
        """The entries [low, high) that each column sees: int32 [b, n, 2]."""
        key = ("entry range", ratio)
        found: Tensor = self.once(key, lambda: self._ranges(*self._entry_range(ratio)))
        return found

    def _entry_range(self, ratio: int) -> tuple[Tensor, Tensor]:
        high = ((self.positions + 1) // ratio).clamp(max=self.total(ratio))
        return torch.zeros_like(high), high

    def _ranges(self, low: Tensor, high: Tensor) -> Tensor:
        shape = len(self.starts), self.n
        return torch.stack((low.expand(shape), high.expand(shape)), dim=-1).int()

    # ---- compressed blocks -------------------------------------------------------------------

    def closing(self, ratio: int) -> int:
        """The most blocks that close in any sequence."""
        ends = zip(self.starts, self.lengths, strict=True)
        return max((start + length) // ratio - start // ratio for start, length in ends)

    def total(self, ratio: int) -> int:
        """The most entries of any sequence after the span."""
        return self.longest // ratio

    def block_index(self, ratio: int) -> Tensor:
        """Indices of the closing blocks: int64 [b or 1, closing]."""
        return self.start // ratio + torch.arange(self.closing(ratio), device=self.device)

    def before(self, ratio: int, *, overlaps: bool) -> int:
        """Raw rows before the span that its closing blocks are made of, at most."""
        return max(start % ratio for start in self.starts) + (ratio if overlaps else 0)

    def block_rows(self, ratio: int, *, overlaps: bool) -> Tensor | None:
        """The rows that the closing blocks (CSA: and the one before the first) are made of, counted
        from `before` rows before the span: int64 [b, blocks · ratio]; None: the first so many."""
        into = [start % ratio for start in self.starts]
        if len(set(into)) == 1:
            return None
        offset = torch.tensor([[max(into) - i] for i in into], device=self.device)
        length = ratio * (self.closing(ratio) + overlaps)
        rows = offset + torch.arange(length, device=self.device)
        last = self.before(ratio, overlaps=overlaps) + self.n - 1
        return rows.clamp(max=last)  # of a sequence that closes fewer blocks

    # ---- rows of the stores --------------------------------------------------------------------

    def recent(self, capacity: int, count: int) -> Tensor:
        """Ring rows of the `count` positions before the span: flat int64 [b · count]."""
        return self.once(("recent", capacity, count), lambda: self._recent(capacity, count))

    def _recent(self, capacity: int, count: int) -> Tensor:
        back = torch.arange(-count, 0, device=self.device)
        return self._flat((self._starts_column() + back) % capacity, capacity)

    def ring_rows(self, capacity: int) -> Rows:
        """Ring rows that the new tokens fill: the last `capacity` real ones of each sequence."""
        return self.once(("ring", capacity), lambda: self._ring_rows(capacity))

    def _ring_rows(self, capacity: int) -> Rows:
        column = torch.arange(self.n, device=self.device)
        index = self._flat((self._starts_column() + column) % capacity, capacity)
        if self.uniform and self.n <= capacity:
            return Rows(index)
        ends = torch.tensor(self.lengths, device=self.device).unsqueeze(1)
        kept = ((column < ends) & (column >= ends - capacity)).flatten().nonzero().squeeze(1)
        return Rows(index[kept], kept)

    def entry_rows(self, ratio: int, page_rows: int) -> Rows:
        """Rows of an entry store that the closing blocks fill."""
        return self.once(("closed", ratio, page_rows), lambda: self._entry_rows(ratio, page_rows))

    def _entry_rows(self, ratio: int, page_rows: int) -> Rows:
        block = torch.arange(self.closing(ratio), device=self.device)
        first = self._starts_column() // ratio
        index = self._paged(first + block, page_rows)
        known = [place.known for place in self.places]
        if self.uniform and max(known) <= self.starts[0]:
            return Rows(index)
        ends = self._starts_column() + torch.tensor(self.lengths, device=self.device).unsqueeze(1)
        new = torch.tensor(known, device=self.device).unsqueeze(1) // ratio
        kept = (first + block < ends // ratio) & (first + block >= new)
        rows = kept.flatten().nonzero().squeeze(1)
        return Rows(index[rows], rows)

    def entries(self, ratio: int, page_rows: int) -> Tensor:
        """Rows of all entries after the span, junk where a sequence has less: flat [b · total]."""

        def make() -> Tensor:
            entry = torch.arange(self.total(ratio), device=self.device)
            return self._paged(entry.expand(len(self.starts), -1), page_rows)

        return self.once(("entries", ratio, page_rows), make)

    def _starts_column(self) -> Tensor:
        return self.start.expand(len(self.starts), 1)

    @cached_property
    def _slots_column(self) -> Tensor:
        return torch.tensor([place.slot for place in self.places], device=self.device).unsqueeze(1)

    @cached_property
    def _tables(self) -> Tensor:
        """The pages of each sequence, in order, then page 0: int64 [b, most pages]."""
        most = max(1, *(len(place.pages) for place in self.places))
        rows = [[*place.pages, *[0] * (most - len(place.pages))] for place in self.places]
        return torch.tensor(rows, device=self.device)

    def _flat(self, rows: Tensor, capacity: int) -> Tensor:
        return (rows + self._slots_column * capacity).flatten()

    def _paged(self, entry: Tensor, page_rows: int) -> Tensor:
        """Entries [b, some] of each sequence as flat rows of a paged store."""
        place = (entry // page_rows).clamp(max=self._tables.shape[1] - 1)
        return (self._tables.gather(1, place) * page_rows + entry % page_rows).flatten()


class BlockSpan(Span):
    """A drafted block: n columns after `starts[b]` tokens, computed and never stored. Every column
    sees the last `window` of those tokens and all of the block, later columns included.
    """

    def __init__(
        self, starts: list[int], n: int, window: int, device: Any, places: Sequence[Place]
    ):
        super().__init__(starts, n, [0] * len(starts), window, device, places)
        self.previous = min(window, max(starts))

    def _window_range(self) -> tuple[Tensor, Tensor]:
        low = (self.previous - self.start).clamp(min=0)
        return low, torch.full_like(low, self.previous + self.n)

    @cached_property
    def query_blocks(self) -> list[QueryBlock]:
        """One block, whose columns all see the same."""
        keys = torch.arange(self.previous + self.n, device=self.device)
        mask = keys >= self.previous - self.start.unsqueeze(2)  # [b, 1, keys]
        every = len(set(self.starts)) == 1
        return [QueryBlock(0, self.n, slice(0, len(keys)), None if every else mask)]
