"""Attention of all three layer kinds.

qr = RMSNorm(wq_a u);  q = rotate(RMS(wq_b qr), t);  kv = rotate(RMSNorm(wkv u), t)
o = attend(q, window entries ∪ visible compressed entries, sink), turned back by −t
out = wo_b · concat_g(wo_a_g · o_g)
SLIDING sees the window only, HCA every compressed entry too, CSA the indexer's choice of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4.config import Config, LayerKind
from dsv4.model.cache import LayerState
from dsv4.model.compressor import Compressor
from dsv4.model.indexer import Indexer
from dsv4.model.layers import RMSNorm, linear, rms_normalise
from dsv4.model.precision import Precision
from dsv4.model.span import QueryBlock, Span
from dsv4.ops import rotary


class Attention(nn.Module):
    """One layer's attention; the layer's number decides its kind."""

    freqs: Tensor
    compressor: Compressor | None
    indexer: Indexer | None

    def __init__(self, config: Config, layer: int, precision: Precision):
        super().__init__()
        d, c, heads = config.hidden_size, config.head_dim, config.num_attention_heads
        kind, eps, dtype = config.kind(layer), config.rms_norm_eps, precision.dtype
        self.heads, self.channels, self.groups, self.eps = heads, c, config.o_groups, eps
        plain = kind is LayerKind.SLIDING
        self.rope = "plain" if plain else "yarn"
        theta = config.rope_theta if plain else config.compress_rope_theta
        yarn = None if plain else config.rope_scaling
        freqs = rotary.frequencies(config.qk_rope_head_dim, theta, yarn)
        self.register_buffer("freqs", freqs, persistent=False)

        low = config.o_groups * config.o_lora_rank
        self.wq_a = linear(d, config.q_lora_rank, precision)
        self.q_norm = RMSNorm(config.q_lora_rank, eps, dtype)
        self.wq_b = linear(config.q_lora_rank, heads * c, precision)
        self.wkv = linear(d, c, precision)
        self.kv_norm = RMSNorm(c, eps, dtype)
        self.wo_a = linear(heads * c // config.o_groups, low, precision.of_wo_a)
        self.wo_b = linear(low, d, precision)
        self.attn_sink = nn.Parameter(torch.empty(heads, dtype=torch.float32))

        self.attend, self.rows = precision.attend, precision.entry_rows(config)
        self.ratio = 0 if plain else config.compress_ratios[layer]
        self.compressor = self.indexer = None
        if not plain:
            overlaps = kind is LayerKind.CSA
            self.compressor = Compressor(
                config, self.rows, c, self.ratio, overlaps=overlaps, freqs=freqs, dtype=dtype
            )
        if kind is LayerKind.CSA:
            self.indexer = Indexer(config, self.ratio, freqs, precision)

    def forward(self, u: Tensor, span: Span, state: LayerState | None) -> Tensor:
        """u [b, n, d] → [b, n, d]."""
        phase = span.phases(self.rope, self.freqs).unsqueeze(2)  # [b or 1, n, 1, r / 2]
        qr = self.q_norm(self.wq_a(u))  # [b, n, q_lora_rank]
        q = self.wq_b(qr).unflatten(-1, (self.heads, self.channels))  # [b, n, H, c]
        q = rotary.rotate(rms_normalise(q, self.eps).to(u.dtype), phase)
        rows = self.window_rows(u, span)
        window = rows
        if state is not None:
            if span.previous:
                window = torch.cat((state.window.recent(span, span.previous), rows), dim=1)
            state.window.append(span, rows)
        attended = self._attend(q, self.rows.decode(window), u, qr, phase, span, state)
        return self._project(rotary.rotate(attended, phase.conj()))

    def window_rows(self, u: Tensor, span: Span) -> Tensor:
        """The window entries of the columns, as they are stored: u [b, n, d] → [b, n, width]."""
        phase = span.phases(self.rope, self.freqs)  # [b or 1, n, r / 2]
        return self.rows.encode(rotary.rotate(self.kv_norm(self.wkv(u)), phase))

    def _attend(
        self,
        q: Tensor,
        window: Tensor,
        u: Tensor,
        qr: Tensor,
        phase: Tensor,
        span: Span,
        state: LayerState | None,
    ) -> Tensor:
        entries = chooser = None
        if self.compressor is not None:
            entries = self.compressor(u, span, state and state.compressor)
        if self.indexer is not None:
            with torch.no_grad():  # a choice has no gradient
                chooser = self.indexer(u, qr, phase, span, state and state.indexer)
        blocks = []
        for block in span.query_blocks:
            seen, seen_mask = self._seen(entries, chooser, span, block)
            rows, keys = q[:, block.first : block.last], window[:, block.keys]
            blocks.append(self.attend(rows, keys, block.mask, seen, seen_mask, self.attn_sink))
        return torch.cat(blocks, dim=1) if len(blocks) > 1 else blocks[0]

    def _seen(
        self,
        entries: Tensor | None,
        chooser: tuple[Tensor, Tensor, Tensor] | None,
        span: Span,
        block: QueryBlock,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The compressed entries that the block's queries attend to, decoded, and their mask."""
        if entries is None:
            return None, None
        visible = span.visible(self.ratio, block)
        if visible == 0:
            return None, None
        mask = span.entries_mask(self.ratio, block)
        if self.indexer is None or chooser is None or visible <= self.indexer.topk:
            return self.rows.decode(entries[:, :visible]).unsqueeze(1), mask
        q, weights, keys = chooser
        with torch.no_grad():
            chosen, real = self.indexer.choose(q, weights, keys[:, :visible], mask, block)
        return self.rows.decode(_gather(entries, chosen)), real

    def _project(self, o: Tensor) -> Tensor:
        """o [b, n, H, c] → [b, n, d]: each group of heads through its own block of wo_a."""
        grouped = o.reshape(*o.shape[:2], self.groups, -1).flatten(0, 1).transpose(0, 1)
        wo_a = self.wo_a.matrix().unflatten(0, (self.groups, -1))  # [g, o_lora_rank, H·c / g]
        low = torch.bmm(self.wo_a.operand(grouped), wo_a.transpose(1, 2))  # [g, b·n, o_lora_rank]
        return self.wo_b(low.transpose(0, 1).reshape(*o.shape[:2], -1).to(o.dtype))


def _gather(entries: Tensor, chosen: Tensor) -> Tensor:
    """entries [b, E, width], chosen [b, n, k] → [b, n, k, width]."""
    b, stored, _ = entries.shape
    row = chosen + torch.arange(b, device=chosen.device).view(b, 1, 1) * stored
    return F.embedding(row, entries.flatten(0, 1))  # its backward adds rows in parallel
