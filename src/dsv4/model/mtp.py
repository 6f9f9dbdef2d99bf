"""Multi-token prediction, depth 1: x_j = e_proj(RMSNorm(e)) + h_proj(RMSNorm(h_j)), then one block.

Row t takes the final streams of token t and the embedding of token t + 1, at rotary position t,
and predicts token t + 2. Embedding and vocabulary projection are the main model's.
"""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor

from dsv4.config import Config
from dsv4.model.block import Block, StreamHead, SubLayers
from dsv4.model.layers import RMSNorm, linear
from dsv4.model.precision import Precision
from dsv4.model.span import Span


class MTPParts(SubLayers, Protocol):
    """What runs the block: MTPBlock itself, in plain operators, or its native twin."""

    def join(self, streams: Tensor, embedded: Tensor, span: Span) -> Tensor:
        """streams [b, n, hc, d], embedded [b, n, d] → x [b, n, hc, d]; of padding, anything."""


class MTPBlock(Block, StreamHead):
    """A sliding-window block with learned routing, fed by streams and the next token."""

    def __init__(self, config: Config, precision: Precision):
        super().__init__(config, config.num_hidden_layers, precision)
        d, eps, dtype = config.hidden_size, config.rms_norm_eps, precision.dtype
        self.enorm, self.hnorm = RMSNorm(d, eps, dtype), RMSNorm(d, eps, dtype)
        self.e_proj, self.h_proj = linear(d, d, precision), linear(d, d, precision)
        self.add_head(config, dtype)

    @property
    def parts(self) -> MTPParts:
        """Its native twin where it has one, or itself."""
        return cast(MTPParts, self.twin or self)

    def join(self, streams: Tensor, embedded: Tensor, span: Span) -> Tensor:
        """streams [b, n, hc, d], embedded [b, n, d] → x [b, n, hc, d]."""
        e: Tensor = self.e_proj(self.enorm(embedded)).unsqueeze(2)
        return e + self.h_proj(self.hnorm(streams))
