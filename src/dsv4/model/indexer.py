"""Lightning indexer (CSA): I[t, s] = Σ_h w[t, h] · relu(q[t, h] · k[s]); a query keeps the top-k.

The orthonormal Hadamard rotation of queries and keys leaves every score as it is; it belongs to
the FP4 rounding of a quantised checkpoint and is not applied to float keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.model.cache import CompressorState
from dsv4.model.compressor import Compressor
from dsv4.model.layers import Linear
from dsv4.model.span import QueryBlock, Span
from dsv4.ops import indexer, rotary


class Indexer(nn.Module):
    """Chooses `index_topk` compressed entries for each query."""

    def __init__(self, config: Config, ratio: int, freqs: Tensor, dtype: torch.dtype):
        super().__init__()
        self.heads, self.channels = config.index_n_heads, config.index_head_dim
        self.topk = config.index_topk
        self.wq_b = Linear(config.q_lora_rank, self.heads * self.channels, dtype)
        self.weights_proj = Linear(config.hidden_size, self.heads, dtype)
        self.compressor = Compressor(
            config.hidden_size,
            self.channels,
            ratio,
            overlaps=True,
            freqs=freqs,
            eps=config.rms_norm_eps,
            dtype=dtype,
        )

    def forward(
        self, u: Tensor, qr: Tensor, phase: Tensor, span: Span, state: CompressorState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """u [b, n, d], qr [b, n, q_lora_rank] → queries [b, n, heads, ic], weights [b, n, heads],
        keys [b, entries, ic].
        """
        q = rotary.rotate(self.wq_b(qr).unflatten(-1, (self.heads, self.channels)), phase)
        weights = self.weights_proj(u).float() * (self.channels**-0.5 * self.heads**-0.5)
        return q, weights, self.compressor(u, span, state)


def choose(
    q: Tensor, weights: Tensor, keys: Tensor, mask: Tensor | None, topk: int, block: QueryBlock
) -> tuple[Tensor, Tensor | None]:
    """The entries that the queries of `block` keep: indices [b, queries, topk], and which of them
    are real (a query may see fewer than topk), None if all are.
    """
    scores = indexer.index_scores(
        q[:, block.first : block.last].float(), weights[:, block.first : block.last], keys.float()
    )
    if mask is None:
        return indexer.top_entries(scores, topk), None
    chosen = indexer.top_entries(scores.masked_fill(~mask, -torch.inf), topk)
    return chosen, mask.expand_as(scores).gather(2, chosen)
