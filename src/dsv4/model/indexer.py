"""Lightning indexer (CSA): I[t, s] = Σ_h w[t, h] · relu(q[t, h] · k[s]); a query keeps the top-k.

The orthonormal Hadamard rotation of queries and keys leaves every score as it is; it belongs to
the FP4 rounding of a packed model's keys (model/rows.py) and is not applied to float ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.model.compressor import Compressor
from dsv4.model.layers import Float32Linear, Linear, linear
from dsv4.model.past import CompressorPast
from dsv4.model.precision import Precision
from dsv4.model.span import QueryBlock, Span
from dsv4.ops import indexer, rotary


class Chooser(NamedTuple):
    """What index scores are made of."""

    q: Tensor  # [b, n, heads, ic]
    weights: Tensor  # [b, n, heads]
    keys: Tensor  # [b, entries, ic]


class Indexer(nn.Module):
    """Chooses `index_topk` compressed entries for each query."""

    def __init__(self, config: Config, ratio: int, freqs: Tensor, precision: Precision):
        super().__init__()
        self.heads, self.channels = config.index_n_heads, config.index_head_dim
        self.topk, dtype = config.index_topk, precision.dtype
        self.weights_dtype, self.scores_dtype = precision.index_weights, precision.index_scores
        self.rows = precision.key_rows(config)
        self.wq_b = linear(config.q_lora_rank, self.heads * self.channels, precision)
        plain = Float32Linear if precision.packed else Linear
        self.weights_proj = plain(config.hidden_size, self.heads, dtype)
        self.compressor = Compressor(
            config, self.rows, self.channels, ratio, overlaps=True, freqs=freqs, dtype=dtype
        )

    def forward(
        self, u: Tensor, qr: Tensor, phase: Tensor, span: Span, state: CompressorPast | None
    ) -> Chooser:
        """u [b, n, d], qr [b, n, q_lora_rank] → what scores are made of."""
        q = rotary.rotate(self.wq_b(qr).unflatten(-1, (self.heads, self.channels)), phase)
        q = self.rows.decode(self.rows.encode(q))  # queries lose what keys lose
        projected = self.weights_proj(u).to(u.dtype)  # [b, n, heads]
        weights = projected.float() * (self.channels**-0.5 * self.heads**-0.5)
        keys = self.compressor(u, span, state)[:, : span.total(self.compressor.ratio)]
        return Chooser(q, weights.to(self.weights_dtype).float(), self.rows.decode(keys))

    def scores(self, chooser: Chooser, visible: slice, block: QueryBlock) -> Tensor:
        """The index scores of the queries of `block`: float32 [b, queries, visible entries]."""
        q, weights = (rows[:, block.first : block.last] for rows in chooser[:2])
        scores = indexer.index_scores(q.float(), weights, chooser.keys[:, visible].float())
        return scores.to(self.scores_dtype).float()

    def choose(self, scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The entries that the queries keep, topk at most: indices [b, queries, kept], and which of
        them are real (a query may see fewer), None if all are.
        """
        kept = min(self.topk, scores.shape[-1])
        if mask is None:
            return indexer.top_entries(scores, kept), None
        chosen = indexer.top_entries(scores.masked_fill(~mask, -torch.inf), kept)
        return chosen, mask.expand_as(scores).gather(2, chosen)
