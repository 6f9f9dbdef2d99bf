"""Multi-token prediction, depth 1: x_j = e_proj(RMSNorm(e)) + h_proj(RMSNorm(h_j)), then one block.

Row t takes the final streams of token t and the embedding of token t + 1, at rotary position t,
and predicts token t + 2. Embedding and vocabulary projection are the main model's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dsv4.config import Config
from dsv4.model.block import Block, StreamHead
from dsv4.model.cache import LayerState
from dsv4.model.layers import Linear, RMSNorm
from dsv4.model.span import Span


class MTPBlock(Block, StreamHead):
    """A sliding-window block with learned routing, fed by streams and the next token."""

    def __init__(self, config: Config, dtype: torch.dtype):
        super().__init__(config, config.num_hidden_layers, dtype)
        d, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = RMSNorm(d, eps, dtype), RMSNorm(d, eps, dtype)
        self.e_proj, self.h_proj = Linear(d, d, dtype), Linear(d, d, dtype)
        self.add_head(config, dtype)

    def draft(
        self, streams: Tensor, embedded: Tensor, ids: Tensor, span: Span, state: LayerState | None
    ) -> Tensor:
        """streams [b, n, hc, d] of tokens t, embedded [b, n, d] of tokens t + 1 → the block's own
        streams [b, n, hc, d]: `collapse` them for a prediction, feed them back for a deeper one.
        """
        e = self.e_proj(self.enorm(embedded)).unsqueeze(2)
        return self(e + self.h_proj(self.hnorm(streams)), ids, span, state)
