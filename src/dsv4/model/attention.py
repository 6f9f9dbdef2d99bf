"""Attention of all three layer kinds.

qr = RMSNorm(wq_a u);  q = rotate(RMS(wq_b qr), t);  kv = rotate(RMSNorm(wkv u), t)
o = attend(q, window entries ∪ visible compressed entries, sink), turned back by −t
out = wo_b · concat_g(wo_a_g · o_g)
SLIDING sees the window only, HCA every compressed entry too, CSA the indexer's choice of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4.config import Config, LayerKind
from dsv4.model.compressor import Compressor
from dsv4.model.indexer import Chooser, Indexer
from dsv4.model.layers import RMSNorm, linear
from dsv4.model.past import LayerPast
from dsv4.model.precision import Precision
from dsv4.model.span import QueryBlock, Span
from dsv4.model.study import Found, Study
from dsv4.ops import native, rotary
from dsv4.ops.attention import attend, attend_and_mass, attend_ranges
from dsv4.ops.norm import rms_norm
from dsv4.ops.products import grouped_linear

QUERIES = 16  # fewer are left to the plain operators


class Seen(NamedTuple):
    """Compressed entries that a block of queries attends to, decoded; nothing: None."""

    rows: Tensor | None  # [b, 1 or queries, entries, c]
    mask: Tensor | None  # bool [b or 1, queries, entries]: which are real; None: all
    scores: Tensor | None  # the indexer's, where it learns: float32 [b, queries, entries]


class Choice(NamedTuple):
    """The indexer's word on a block of queries, for the native twin."""

    block: QueryBlock
    places: slice  # of each query's row of the attention's mass
    scores: Tensor  # float32 [b, queries, places]
    real: Tensor | None  # bool [b or 1, queries, places]; None: all
    picked: Tensor  # int64 [b, queries, places]: entries, −1 where not real


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
        freqs = frequencies(config, layer)
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

    def forward(
        self, u: Tensor, span: Span, state: LayerPast | None, study: Study | None = None
    ) -> Tensor:
        """u [b, n, d] → [b, n, d]."""
        phase = span.phases(self.rope, self.freqs).unsqueeze(2)  # [b or 1, n, 1, r / 2]
        qr = self.q_norm(self.wq_a(u))  # [b, n, q_lora_rank]
        q = self.wq_b(qr).unflatten(-1, (self.heads, self.channels))  # [b, n, H, c]
        q = rotary.rotate(rms_norm(q, None, self.eps).to(u.dtype), phase)
        window = self.window_rows(u, span)
        if state is not None:
            window = state.window.extend(span, window, span.previous)
        entries = None
        if self.compressor is not None:
            entries = self.compressor(u, span, state and state.compressor)
        chooser = self._chooser(u, qr, phase, span, state, study)
        attended = self._attend(q, self.rows.decode(window), entries, chooser, span, study)
        return self._project(rotary.rotate(attended, phase.conj()))

    def window_rows(self, u: Tensor, span: Span) -> Tensor:
        """The window entries of the columns, as they are stored: u [b, n, d] → [b, n, width]."""
        phase = span.phases(self.rope, self.freqs)  # [b or 1, n, r / 2]
        return self.rows.encode(rotary.rotate(self.kv_norm(self.wkv(u)), phase))

    def _chooser(
        self,
        u: Tensor,
        qr: Tensor,
        phase: Tensor,
        span: Span,
        state: LayerPast | None,
        study: Study | None,
    ) -> Chooser | None:
        """What the indexer makes of the columns. A choice has no gradient; an indexer that learns
        from attention reads the layer as constants."""
        if self.indexer is None:
            return None
        learns = study is not None and study.index and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns):
            chooser: Chooser = self.indexer(
                u.detach(), qr.detach(), phase, span, state and state.indexer
            )
        return chooser

    def _attend(
        self,
        q: Tensor,
        window: Tensor,
        entries: Tensor | None,
        chooser: Chooser | None,
        span: Span,
        study: Study | None,
    ) -> Tensor:
        many = span.n >= QUERIES and self.attend is attend
        if many and native.trainer(q, window) is not None:
            return self._attend_ranges(q, window, entries, chooser, span, study)
        blocks, found = [], []
        for block in span.query_blocks:
            seen = self._seen(entries, chooser, span, block, study)
            rows, keys = q[:, block.first : block.last], window[:, block.keys]
            asked = rows, keys, block.mask, seen.rows, seen.mask, self.attn_sink
            if seen.scores is None:
                blocks.append(self.attend(*asked))
                found.append(Found.nothing(rows))
            else:
                assert self.indexer is not None
                attended, mass = attend_and_mass(*asked)
                blocks.append(attended)
                found.append(Found.of(mass, seen.scores, seen.mask, self.indexer.topk))
        if study is not None and study.index and self.indexer is not None:
            self._tell(study, found)
        return torch.cat(blocks, dim=1) if len(blocks) > 1 else blocks[0]

    def _attend_ranges(
        self,
        q: Tensor,
        window: Tensor,
        entries: Tensor | None,
        chooser: Chooser | None,
        span: Span,
        study: Study | None,
    ) -> Tensor:
        """The same by the native twin, all queries at once."""
        visible = picked = None
        choices: list[Choice] = []
        learns = chooser is not None and study is not None and study.index
        if entries is None or not entries.shape[1]:
            entries = None
        else:
            entries, visible = self.rows.decode(entries), span.entry_range(self.ratio)
            if self.indexer is not None and chooser is not None:
                dense = study is not None and study.dense
                picks = not dense and entries.shape[1] > self.indexer.topk
                if picks:  # made first: what is kept between blocks would leave holes between
                    shape = (*q.shape[:2], self.indexer.topk)
                    picked = torch.full(shape, -1, dtype=torch.int32, device=q.device)
                for block in span.query_blocks if picks or learns else ():
                    choice = self._choice(chooser, span, block, picks)
                    if picked is not None:
                        width = choice.picked.shape[2]
                        picked[:, block.first : block.last, :width] = choice.picked
                    if learns:
                        choices.append(choice)
        asked = window, span.window_range(), entries, visible, picked, self.attn_sink
        attended, mass = attend_ranges(q, *asked, with_mass=learns)
        if learns and study is not None:
            found = [self._found(choice, mass) for choice in choices]
            self._tell(study, found or [Found.nothing(q)])
        return attended

    def _choice(self, chooser: Chooser, span: Span, block: QueryBlock, picks: bool) -> Choice:
        """What the indexer says of the block's queries."""
        assert self.indexer is not None
        visible = span.visible(self.ratio, block)
        scores = self.indexer.scores(chooser, visible, block)  # [b, queries, entries]
        mask = None
        if visible.start < visible.stop:
            mask = span.entries_mask(self.ratio, block)
        if not picks:
            return Choice(block, visible, scores, mask, scores)
        with torch.no_grad():
            chosen, real = self.indexer.choose(scores, mask)
            entry = chosen + visible.start
            picked = entry if real is None else entry.masked_fill(~real, -1)
        kept = slice(0, picked.shape[2])
        return Choice(block, kept, scores.gather(2, chosen), real, picked)

    def _found(self, choice: Choice, mass: Tensor | None) -> Found:
        assert self.indexer is not None and mass is not None
        own = mass[:, choice.block.first : choice.block.last, choice.places]
        if not own.shape[2]:
            return Found.nothing(own)
        return Found.of(own, choice.scores, choice.real, self.indexer.topk)

    @staticmethod
    def _tell(study: Study, found: list[Found]) -> None:
        study.kl, study.recall, study.seen = (
            torch.cat(part, dim=1) for part in zip(*found, strict=True)
        )

    def _seen(
        self,
        entries: Tensor | None,
        chooser: Chooser | None,
        span: Span,
        block: QueryBlock,
        study: Study | None,
    ) -> Seen:
        """The compressed entries that the block's queries attend to."""
        visible = slice(0, 0) if entries is None else span.visible(self.ratio, block)
        if entries is None or visible.start >= visible.stop:
            return Seen(None, None, None)
        mask = span.entries_mask(self.ratio, block)
        rows = entries[:, visible]
        if self.indexer is None or chooser is None:
            return Seen(self.rows.decode(rows).unsqueeze(1), mask, None)
        learns = study is not None and study.index
        every = (study is not None and study.dense) or rows.shape[1] <= self.indexer.topk
        if every and not learns:
            return Seen(self.rows.decode(rows).unsqueeze(1), mask, None)
        scores = self.indexer.scores(chooser, visible, block)  # [b, queries, entries]
        if every:
            return Seen(self.rows.decode(rows).unsqueeze(1), mask, scores)
        with torch.no_grad():
            chosen, real = self.indexer.choose(scores, mask)
        taken = self.rows.decode(_gather(entries, chosen + visible.start))
        return Seen(taken, real, scores.gather(2, chosen) if learns else None)

    def _project(self, o: Tensor) -> Tensor:
        """o [b, n, H, c] → [b, n, d]: each group of heads through its own block of wo_a."""
        grouped = o.reshape(*o.shape[:2], self.groups, -1)  # [b, n, g, H·c / g]
        wo_a = self.wo_a.matrix().unflatten(0, (self.groups, -1))  # [g, o_lora_rank, H·c / g]
        low = grouped_linear(self.wo_a.operand(grouped), wo_a, low=self.wo_a.low)
        return self.wo_b(low.flatten(2).to(o.dtype))


def frequencies(config: Config, layer: int) -> Tensor:
    """A layer's rotary frequencies, which its compressors and its indexer share: float32 [r / 2].
    Layers that see the window alone have theirs, without YaRN."""
    if config.kind(layer) is LayerKind.SLIDING:
        return rotary.frequencies(config.qk_rope_head_dim, config.rope_theta, None)
    theta, yarn = config.compress_rope_theta, config.rope_scaling
    return rotary.frequencies(config.qk_rope_head_dim, theta, yarn)


def _gather(entries: Tensor, chosen: Tensor) -> Tensor:
    """entries [b, E, width], chosen [b, n, k] → [b, n, k, width]."""
    b, stored, _ = entries.shape
    row = chosen + torch.arange(b, device=chosen.device).view(b, 1, 1) * stored
    return F.embedding(row, entries.flatten(0, 1))  # its backward adds rows in parallel
