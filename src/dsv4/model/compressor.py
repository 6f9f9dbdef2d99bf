"""Compressor of ratio m: entry_i = rotate(RMSNorm(Σ_t softmax_t(wgate u_t + ape) ⊙ wkv u_t), m·i).

The sum runs over block i (HCA) or over blocks i−1 and i (CSA, overlapping). A query at t sees the
entries i < (t + 1) // m; an unfinished block is decoding state, never an entry.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.model.layers import Float32Linear, RMSNorm
from dsv4.model.past import CompressorPast
from dsv4.model.rows import RowFormat
from dsv4.model.span import Span
from dsv4.ops import compress, rotary


class Compressor(nn.Module):
    """Compresses the layer input u into one entry of `channels` per `ratio` tokens."""

    freqs: Tensor

    def __init__(
        self,
        config: Config,
        rows: RowFormat,
        channels: int,
        ratio: int,
        *,
        overlaps: bool,
        freqs: Tensor,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.rows, self.ratio, self.overlaps, self.dtype = rows, ratio, overlaps, dtype
        width = 2 * channels if overlaps else channels
        self.wkv = Float32Linear(config.hidden_size, width, dtype)
        self.wgate = Float32Linear(config.hidden_size, width, dtype)
        self.ape = nn.Parameter(torch.empty(ratio, width, dtype=torch.float32))
        self.norm = RMSNorm(channels, config.rms_norm_eps, dtype)
        self.register_buffer("freqs", freqs, persistent=False)

    def forward(self, u: Tensor, span: Span, state: CompressorPast | None) -> Tensor:
        """u [b, n, d] → the rows of all entries so far [b, entries, width]; `state` is updated."""
        raw = torch.cat((self.wkv(u), self.wgate(u)), dim=-1)  # [b, n, 2·width], float32
        before = span.before(self.ratio, overlaps=self.overlaps)
        if state is not None:
            raw = state.tail.extend(span, raw, before)
        elif before:
            raw = F.pad(raw, (0, 0, before, 0))
        new = self.rows.encode(self._close(raw, span))  # [b, closing, width]
        return new if state is None else state.entries.extend(span, new)

    def _close(self, raw: Tensor, span: Span) -> Tensor:
        """The entries of the blocks that the span closes, from the raw rows of its columns and of
        those `before`: [b, closing, channels]."""
        m, closing = self.ratio, span.closing(self.ratio)
        if closing == 0:
            empty = raw.new_zeros(raw.shape[0], 0, self.norm.weight.shape[0])
            return empty.to(self.dtype)
        blocks = self._blocks(raw, span, closing)  # [b, closing (+ 1), m, 2·width]
        values, scores = blocks.chunk(2, dim=-1)
        scores = scores + self.ape
        index = span.block_index(m)  # [b or 1, closing]
        if self.overlaps:
            values, scores = compress.overlap(values), compress.overlap(scores)
            is_first_half = torch.arange(2 * m, device=raw.device) < m
            nothing_before = (index == 0).unsqueeze(2) & is_first_half  # [b or 1, closing, 2m]
            scores = scores.masked_fill(nothing_before.unsqueeze(3), -torch.inf)
        entries = self.norm(compress.pool(values, scores).to(self.dtype))
        return rotary.rotate(entries, rotary.phases(index * m, self.freqs))

    def _blocks(self, raw: Tensor, span: Span, closing: int) -> Tensor:
        """Raw rows laid in blocks, beginning with the open block (CSA: the one before it)."""
        m, overlaps = self.ratio, self.overlaps
        row = span.block_rows(m, overlaps=overlaps)
        if row is None:
            rows = raw[:, : m * (closing + overlaps)]
        else:
            rows = raw.gather(1, row.unsqueeze(2).expand(-1, -1, raw.shape[2]))
        return rows.unflatten(1, (-1, m))
