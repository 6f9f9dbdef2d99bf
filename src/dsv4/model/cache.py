"""The heterogeneous cache: fixed state per sequence in slots, growing entries in pages.

Per layer and slot: a ring of window entries; on CSA and HCA layers a ring of raw compressor rows
(the tail state: the unfinished block and, for CSA, the block before it). Entries of closed blocks
lie in pages of `page_tokens` tokens, numbered alike in every layer: one table serves them all.

All state follows from a sequence's length, so stepping back is setting it. Rings hold `window`
positions more than a forward reads: that is how far `truncate` can go back.
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dsv4.config import Config, LayerKind
from dsv4.model.precision import Precision
from dsv4.model.rows import FloatRows, RowFormat
from dsv4.model.span import Rows, Span

PAGE = 128  # tokens of a page at least


def page_tokens(config: Config) -> int:
    """Tokens of a page: the smallest multiple of every ratio from PAGE on (128 in the release)."""
    block = math.lcm(*(ratio for ratio in config.compress_ratios if ratio))
    return block * math.ceil(PAGE / block)


class Ring:
    """The last `capacity` rows of each slot: position p lies in row p mod capacity."""

    def __init__(
        self,
        slots: int,
        capacity: int,
        rows: RowFormat,
        device: torch.device | str,
    ):
        self.capacity = capacity
        self.data = _zeros((slots, capacity, rows.width), rows.dtype, device)

    def recent(self, span: Span, count: int) -> Tensor:
        """The `count` rows before the span: [b, count, width]; junk before position 0."""
        rows = self.data.flatten(0, 1).index_select(0, span.recent(self.capacity, count))
        return rows.view(len(span.starts), count, self.data.shape[2])

    def extend(self, span: Span, new: Tensor, count: int) -> Tensor:
        """Store the span's rows, new [b, n, width] → the `count` before them and they."""
        laid = torch.cat((self.recent(span, count), new), dim=1) if count else new
        self.append(span, new)
        return laid

    def append(self, span: Span, new: Tensor) -> None:
        """Store the span's rows: new [b, n, width]."""
        _write(self.data, span.ring_rows(self.capacity), new)


class Entries:
    """Compressed entries in pages: [pages, rows a page, width]."""

    def __init__(
        self, pages: int, page_rows: int, ratio: int, rows: RowFormat, device: torch.device | str
    ):
        self.ratio, self.page_rows = ratio, page_rows
        self.data = _zeros((pages, page_rows, rows.width), rows.dtype, device)

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all."""
        grown = _zeros((pages, *self.data.shape[1:]), self.data.dtype, self.data.device)
        grown[: len(self.data)] = self.data
        self.data = grown

    def extend(self, span: Span, new: Tensor) -> Tensor:
        """Store the entries of the blocks that the span closes; then all are read."""
        self.append(span, new)
        return self.read(span)

    def read(self, span: Span) -> Tensor:
        """Each sequence's entries after the span: [b, total, width]; junk where one has less."""
        rows = self.data.flatten(0, 1).index_select(0, span.entries(self.ratio, self.page_rows))
        return rows.view(len(span.starts), span.total(self.ratio), self.data.shape[2])

    def append(self, span: Span, new: Tensor) -> None:
        """Store the entries of the blocks that the span closes: new [b, closing, width]."""
        _write(self.data, span.entry_rows(self.ratio, self.page_rows), new)


class CompressorState:
    """What one compressor keeps: raw rows of the open block, and the entries of closed ones."""

    def __init__(self, tail: Ring, entries: Entries):
        self.tail, self.entries = tail, entries


class LayerState:
    """What one attention layer keeps, of `slots` sequences and in `pages` pages."""

    def __init__(
        self,
        config: Config,
        layer: int,
        slots: int,
        pages: int,
        precision: Precision,
        device: torch.device | str,
    ):
        window, entry_rows = config.sliding_window, precision.entry_rows(config)
        self.window = Ring(slots, 2 * window, entry_rows, device)
        self.compressor: CompressorState | None = None
        self.indexer: CompressorState | None = None
        self.kind = kind = config.kind(layer)
        if kind is LayerKind.SLIDING:
            return
        halves, ratio = 2 if kind is LayerKind.CSA else 1, config.compress_ratios[layer]
        page_rows = page_tokens(config) // ratio

        def state(channels: int, stored: RowFormat) -> CompressorState:
            raw = FloatRows(2 * halves * channels, torch.float32)
            return CompressorState(
                Ring(slots, window + halves * ratio, raw, device),
                Entries(pages, page_rows, ratio, stored, device),
            )

        self.compressor = state(config.head_dim, entry_rows)
        if kind is LayerKind.CSA:
            self.indexer = state(config.index_head_dim, precision.key_rows(config))

    @property
    def rings(self) -> list[Ring]:
        """The stores that are divided into slots."""
        return [self.window, *(part.tail for part in self._parts)]

    @property
    def entries(self) -> list[Entries]:
        """The stores that are divided into pages."""
        return [part.entries for part in self._parts]

    @property
    def _parts(self) -> list[CompressorState]:
        return [part for part in (self.compressor, self.indexer) if part is not None]


@dataclass(frozen=True)
class Form:
    """What the stores of a cache hold: a model takes the caches of its own form."""

    ratios: tuple[int, ...]  # of its layers
    window: int
    entries: RowFormat
    keys: RowFormat

    @classmethod
    def of(cls, config: Config, layers: Many[int], precision: Precision) -> Form:
        """The form of a cache for these layers."""
        own = config.num_hidden_layers  # a draft's layers see the window alone, named or not
        ratios = tuple(config.compress_ratios[i] if i < own else 0 for i in layers)
        entries, keys = precision.entry_rows(config), precision.key_rows(config)
        return cls(ratios, config.sliding_window, entries, keys)


class Pages(Protocol):
    """Where a sequence gets its next page from."""

    def take(self) -> int:
        """The number of a page that nobody holds."""
        ...


class Stores:
    """All layers' state: `slots` sequences, and pages that grow as they are taken, or do not."""

    def __init__(
        self,
        config: Config,
        slots: int,
        pages: int,
        *,
        layers: Many[int] | None = None,
        precision: Precision,
        device: torch.device | str = "cpu",
    ):
        self.config, self.slots, self.pages = config, slots, pages
        self.page_tokens, self.device = page_tokens(config), torch.device(device)
        numbers = range(config.num_hidden_layers) if layers is None else layers
        self.layers = [
            LayerState(config, layer, slots, pages, precision, device) for layer in numbers
        ]
        self.form = Form.of(config, numbers, precision)
        self._taken = 0

    def check(self, form: Form, device: torch.device) -> None:
        """Raise ValueError unless the stores are of that form, and there."""
        if self.form is not form and self.form != form:
            for each in dataclasses.fields(Form):
                mine, theirs = getattr(self.form, each.name), getattr(form, each.name)
                if mine != theirs:
                    raise ValueError(
                        f"the cache belongs to another model: its {each.name} are {mine}, must be "
                        f"{theirs}: make it with new_cache, or new_draft_cache for a draft"
                    )
        self.form = form  # the next time they are the same object
        if self.device != device:
            raise ValueError(f"the cache is on {self.device}, ids are on {device}")

    def take(self) -> int:
        """The next page, the stores doubled where it does not fit."""
        if self._taken == self.pages:
            self.pages = max(2 * self.pages, 4)
            for layer in self.layers:
                for entries in layer.entries:
                    entries.grow(self.pages)
        self._taken += 1
        return self._taken - 1

    def bytes_of(self, tokens: int) -> int:
        """Bytes of one sequence of so many tokens: its slot, and its pages."""
        return self.slot_bytes + math.ceil(tokens / self.page_tokens) * self.page_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot in all layers."""
        rings = (ring.data for layer in self.layers for ring in layer.rings)
        return sum(data.shape[1] * data.shape[2] * data.itemsize for data in rings)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page in all layers."""
        return sum(
            entries.page_rows * entries.data.shape[2] * entries.data.itemsize
            for layer in self.layers
            for entries in layer.entries
        )


@dataclass(eq=False)
class SequenceState:
    """One sequence: its slot, its pages in order, and the tokens that it has seen.

    `known` tokens at its beginning have their entries in the pages already: where windows and tails
    were lost, tokens before `known` are seen again, and their entries are left as they are.
    """

    slot: int
    pages: array[int] = field(default_factory=lambda: array("i"))
    length: int = 0
    reached: int = 0  # the longest it has been: older ring slots are overwritten
    known: int = 0

    @classmethod
    def whole(cls, config: Config, number: int, tokens: int) -> SequenceState:
        """Sequence `number` of a batch of `tokens` tokens each, its pages behind the others'."""
        pages = math.ceil(tokens / page_tokens(config))
        return cls(number, array("i", range(number * pages, (number + 1) * pages)))

    def oldest(self, window: int) -> int:
        """The shortest length that it can step back to."""
        return max(0, self.reached - window)


class Cache:
    """A batch of sequences, each at its own length.

    `lengths[b]` is the number of tokens that sequence b has seen. An engine makes one for each step
    from the sequences that run; `new_cache` of a model makes one with stores of its own.
    """

    def __init__(self, stores: Stores, sequences: Many[SequenceState], pages: Pages | None = None):
        self.stores, self.sequences = stores, list(sequences)
        self._pages = stores if pages is None else pages

    @property
    def config(self) -> Config:
        """The model's."""
        return self.stores.config

    @property
    def layers(self) -> list[LayerState]:
        """State of each layer."""
        return self.stores.layers

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return len(self.sequences)

    @property
    def lengths(self) -> list[int]:
        """Tokens that each sequence has seen."""
        return [sequence.length for sequence in self.sequences]

    def reserve(self, lengths: Many[int]) -> None:
        """Give each sequence the pages that `lengths[b]` more tokens need."""
        size = self.stores.page_tokens
        for sequence, more in zip(self.sequences, lengths, strict=True):
            while len(sequence.pages) * size < sequence.length + more:
                sequence.pages.append(self._pages.take())

    def advance(self, span: Span) -> None:
        """Count the span's tokens as seen, once every layer has stored them."""
        for sequence, length in zip(self.sequences, span.lengths, strict=True):
            sequence.length += length
            sequence.reached = max(sequence.reached, sequence.length)

    def truncate(self, length: int | Many[int]) -> None:
        """Step back to `length` tokens (one for all sequences, or one each).

        Any of the last `sliding_window` positions can be reached. Raises ValueError, with the
        cache unchanged, if a length is ahead of its sequence or too far back.
        """
        wanted = [length] * self.batch if isinstance(length, int) else list(length)
        if len(wanted) != self.batch:
            raise ValueError(f"truncate got {len(wanted)} lengths for {self.batch} sequences")
        for b, (new, sequence) in enumerate(zip(wanted, self.sequences, strict=True)):
            oldest, now = sequence.oldest(self.config.sliding_window), sequence.length
            if not oldest <= new <= now:
                raise ValueError(
                    f"sequence {b} cannot step to length {new}: it holds {now} tokens and keeps "
                    f"the state of lengths {oldest} to {now}; start a new cache to go further back"
                )
        for new, sequence in zip(wanted, self.sequences, strict=True):
            sequence.length = new

    def nbytes(self) -> int:
        """Bytes that the sequences hold: their slots and pages in all layers."""
        pages = sum(len(sequence.pages) for sequence in self.sequences)
        return self.batch * self.stores.slot_bytes + pages * self.stores.page_bytes


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Zeros that take memory only once they are written to, where the system can do that."""
    if torch.device(device).type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)


def _write(store: Tensor, rows: Rows, new: Tensor) -> None:
    flat = new.detach().flatten(0, 1)
    flat = flat if rows.source is None else flat.index_select(0, rows.source)
    store.view(-1, store.shape[-1]).index_copy_(0, rows.index, flat.to(store.dtype))
