"""The heterogeneous cache. All state follows from `lengths`, so stepping back is setting them.

Per layer: a ring of window entries; on CSA and HCA layers a ring of raw compressor rows (the tail
state: the unfinished block and, for CSA, the block before it) and the entries of closed blocks.
Rings hold `window` positions more than a forward reads: that is how far `truncate` can go back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dsv4.config import Config, LayerKind
from dsv4.model.precision import Precision
from dsv4.model.rows import FloatRows, RowFormat
from dsv4.model.span import Rows, Span


class Ring:
    """The last `capacity` rows of each sequence: position p lies in slot p mod capacity."""

    def __init__(
        self,
        batch: int,
        capacity: int,
        rows: RowFormat,
        device: torch.device | str,
    ):
        self.capacity = capacity
        self.data = torch.zeros(batch, capacity, rows.width, dtype=rows.dtype, device=device)

    def recent(self, span: Span, count: int) -> Tensor:
        """The `count` rows before the span: [b, count, width]; junk before position 0."""
        rows = self.data.flatten(0, 1).index_select(0, span.recent(self.capacity, count))
        return rows.view(self.data.shape[0], count, self.data.shape[2])

    def append(self, span: Span, new: Tensor) -> None:
        """Store the span's rows: new [b, n, width]."""
        _write(self.data, span.ring_rows(self.capacity), new)


class Entries:
    """A growing store of compressed entries: [b, capacity, width]."""

    def __init__(self, batch: int, rows: RowFormat, device: torch.device | str):
        self.data = torch.zeros(batch, 0, rows.width, dtype=rows.dtype, device=device)

    def reserve(self, total: int) -> None:
        """Make room for `total` entries."""
        batch, capacity, width = self.data.shape
        if total > capacity:
            grown = self.data.new_zeros(batch, max(total, 2 * capacity, 16), width)
            grown[:, :capacity] = self.data
            self.data = grown

    def append(self, span: Span, ratio: int, new: Tensor) -> None:
        """Store the entries of the blocks that the span closes: new [b, closing, width]."""
        self.reserve(span.total(ratio))
        _write(self.data, span.entry_rows(ratio, self.data.shape[1]), new)


class CompressorState:
    """What one compressor keeps: raw rows of the open block, and the entries of closed ones."""

    def __init__(self, tail: Ring, entries: Entries):
        self.tail, self.entries = tail, entries


class LayerState:
    """What one attention layer keeps."""

    def __init__(
        self,
        config: Config,
        layer: int,
        batch: int,
        precision: Precision,
        device: torch.device | str,
    ):
        window, entry_rows = config.sliding_window, precision.entry_rows(config)
        self.window = Ring(batch, 2 * window, entry_rows, device)
        self.compressor: CompressorState | None = None
        self.indexer: CompressorState | None = None
        kind = config.kind(layer)
        if kind is LayerKind.SLIDING:
            return
        halves = 2 if kind is LayerKind.CSA else 1
        rows = window + halves * config.compress_ratios[layer]

        def state(channels: int, stored: RowFormat) -> CompressorState:
            raw = FloatRows(2 * halves * channels, torch.float32)
            return CompressorState(Ring(batch, rows, raw, device), Entries(batch, stored, device))

        self.compressor = state(config.head_dim, entry_rows)
        if kind is LayerKind.CSA:
            self.indexer = state(config.index_head_dim, precision.key_rows(config))


class Cache:
    """State of `batch` sequences, each at its own length.

    `lengths[b]` is the number of tokens that sequence b has seen.
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        *,
        layers: Sequence[int] | None = None,
        precision: Precision,
        device: torch.device | str = "cpu",
    ):
        self.config, self.batch = config, batch
        self.lengths = [0] * batch
        self._reached = [0] * batch  # the longest each has been: older ring slots are overwritten
        numbers = range(config.num_hidden_layers) if layers is None else layers
        self.layers = [LayerState(config, layer, batch, precision, device) for layer in numbers]

    def advance(self, span: Span) -> None:
        """Count the span's tokens as seen, once every layer has stored them."""
        for b, length in enumerate(span.lengths):
            self.lengths[b] += length
            self._reached[b] = max(self._reached[b], self.lengths[b])

    def truncate(self, length: int | Sequence[int]) -> None:
        """Step back to `length` tokens (one for all sequences, or one each).

        Any of the last `sliding_window` positions can be reached. Raises ValueError, with the
        cache unchanged, if a length is ahead of its sequence or too far back.
        """
        wanted = [length] * self.batch if isinstance(length, int) else list(length)
        if len(wanted) != self.batch:
            raise ValueError(f"truncate got {len(wanted)} lengths for {self.batch} sequences")
        for b, (new, now, reached) in enumerate(
            zip(wanted, self.lengths, self._reached, strict=True)
        ):
            oldest = max(0, reached - self.config.sliding_window)
            if not oldest <= new <= now:
                raise ValueError(
                    f"sequence {b} cannot step to length {new}: it holds {now} tokens and keeps "
                    f"the state of lengths {oldest} to {now}; start a new cache to go further back"
                )
        self.lengths = wanted

    def nbytes(self) -> int:
        """Bytes allocated for all sequences and layers."""
        total = 0
        for layer in self.layers:
            total += layer.window.data.nbytes
            for state in (layer.compressor, layer.indexer):
                if state is not None:
                    total += state.tail.data.nbytes + state.entries.data.nbytes
        return total


def _write(store: Tensor, rows: Rows, new: Tensor) -> None:
    flat = new.detach().flatten(0, 1)
    flat = flat if rows.source is None else flat.index_select(0, rows.source)
    store.view(-1, store.shape[-1]).index_copy_(0, rows.index, flat.to(store.dtype))
