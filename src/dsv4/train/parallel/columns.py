"""Two-stage context parallelism of compressed attention (report, section 3.3).

The columns of a row lie in equal parts with the processes of a group. First each sends on the rows
that later ones need (window entries; raw rows of blocks that are still open, CSA: and of the block
before); then each closes its own blocks, all gather all entries and lay them in the order of the
row. A layer's forward stays as it is: this is the `LayerPast` that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.config import Config, LayerKind
from dsv4.model.documents import DocumentSpan
from dsv4.model.past import Past
from dsv4.model.span import Span
from dsv4.model.transformer import Transformer
from dsv4.train.parallel.collectives import exchange, gather


class Neighbours:
    """`Recent` whose rows before lie with other processes: the last `reach` are asked for."""

    def __init__(self, group: Any, reach: int, tied: list[Tensor]):
        self.group, self.reach, self.tied = group, reach, tied

    def extend(self, span: Span, new: Tensor, count: int) -> Tensor:
        """new [b, n, width] → the `count` rows before them, then they: [b, count + n, width]."""
        b, n, width = new.shape
        own, ways = self.group.rank(), self.group.size()
        sent = [self._wanted(own, other, n) for other in range(ways)]
        got = [self._wanted(other, own, n) for other in range(ways)]
        leaving = [new[:, n - each :].flatten(0, 1) for each in sent if each]
        rows = torch.cat(leaving) if leaving else new[:, :0].flatten(0, 1)
        sizes = [b * each for each in got]
        found = exchange(rows, [b * each for each in sent], sizes, self.group)
        self.tied.append(found)
        parts = [part.view(b, -1, width) for part in found.split(sizes) if len(part)]
        before = torch.cat(parts, dim=1) if parts else found.view(b, 0, width)
        return torch.cat((before[:, before.shape[1] - count :], new), dim=1)

    def _wanted(self, owner: int, reader: int, n: int) -> int:
        """How many rows of `owner`, its last ones, `reader` needs."""
        end, first = (owner + 1) * n, reader * n
        return max(0, min(n, end - (first - self.reach))) if end <= first else 0


class Spread:
    """`Closed` of which each process closes its own entries: all are gathered."""

    def __init__(self, group: Any, ratio: int, tied: list[Tensor]):
        self.group, self.ratio, self.tied = group, ratio, tied

    def extend(self, span: Span, new: Tensor) -> Tensor:
        """new [b, closing, width] → the row's entries up to the span's end: [b, total, width]."""
        assert isinstance(span, DocumentSpan)
        key = ("spread", self.ratio)
        most, order = span.once(key, lambda: self._order(span))
        if not most:
            return new
        padded = F.pad(new, (0, 0, 0, most - new.shape[1]))
        whole = gather(padded, self.group)  # [processes, b, most, width]
        self.tied.append(whole)
        laid = whole.transpose(0, 1).flatten(1, 2)  # [b, processes · most, width]
        return laid.gather(1, order.unsqueeze(2).expand(-1, -1, laid.shape[2]))

    def _order(self, span: DocumentSpan) -> tuple[int, Tensor]:
        """The most entries that a process closes in a row, and where each entry of a row is among
        those of all processes: int64 [b, total]."""
        ways, n, total = self.group.size(), span.n, span.total(self.ratio)
        closes = span.closes(self.ratio)[:, : ways * n]  # [b, width]
        closes = F.pad(closes, (0, ways * n - closes.shape[1]))
        counts = closes.unflatten(1, (ways, n)).sum(2)  # [b, processes]
        through = counts.cumsum(1)
        most = int(counts.max())
        entry = torch.arange(total, device=counts.device).expand(counts.shape[0], -1).contiguous()
        owner = torch.searchsorted(through, entry, right=True).clamp(max=ways - 1)  # [b, total]
        place = entry - (through - counts).gather(1, owner)
        return most, owner * most + place.clamp(min=0, max=max(most - 1, 0))


@dataclass
class CompressorNeighbours:
    """What a compressor reads of the columns before."""

    tail: Neighbours
    entries: Spread


@dataclass
class LayerNeighbours:
    """What a layer reads of the columns before. `tied`: what came, for `tie`."""

    window: Neighbours
    compressor: CompressorNeighbours | None = None
    indexer: CompressorNeighbours | None = None
    tied: list[Tensor] = field(default_factory=list)


def past_of(model: Transformer, group: Any, first: int) -> Past:
    """The past of this process's columns, which begin at `first`, in one forward."""
    count = len(model.layers) + len(model.mtp)
    return Past(first, [_layer(model.config, number, group) for number in range(count)])


def _layer(config: Config, layer: int, group: Any) -> LayerNeighbours:
    tied: list[Tensor] = []
    found = LayerNeighbours(Neighbours(group, config.sliding_window - 1, tied), tied=tied)
    kind = config.kind(layer)
    if kind is LayerKind.SLIDING:
        return found
    ratio = config.compress_ratios[layer]
    reach = (2 * ratio if kind is LayerKind.CSA else ratio) - 1

    def compressor() -> CompressorNeighbours:
        return CompressorNeighbours(Neighbours(group, reach, tied), Spread(group, ratio, tied))

    found.compressor = compressor()
    if kind is LayerKind.CSA:
        found.indexer = compressor()
    return found
