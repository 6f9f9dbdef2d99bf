"""One layer: attention, then MoE, each reading and writing the hc residual streams through mHC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.model.attention import Attention
from dsv4.model.layers import RMSNorm
from dsv4.model.moe import MoE
from dsv4.model.past import LayerPast
from dsv4.model.precision import Precision
from dsv4.model.seam import Twinned
from dsv4.model.span import Span
from dsv4.model.study import Study
from dsv4.ops import hyper


class SubLayers(Protocol):
    """What runs a block: Block itself, in plain operators, or its native twin."""

    def attend(self, x: Tensor, span: Span, state: LayerPast | None) -> Tensor:
        """The attention sub-layer with its mHC: x [b, n, hc, d] → the same shape."""

    def mix(self, x: Tensor, ids: Tensor, span: Span) -> Tensor:
        """The MoE sub-layer with its mHC: x [b, n, hc, d], ids [b, n] → x's shape."""


class Block(Twinned[SubLayers]):
    """x [b, n, hc, d] → the same shape, through two sub-layers."""

    def __init__(self, config: Config, layer: int, precision: Precision):
        super().__init__()
        self.config, self.precision = config, precision
        self.rule = hyper.Rule(config.hc_sinkhorn_iters, config.hc_eps, config.rms_norm_eps)
        d, hc, dtype = config.hidden_size, config.hc_mult, precision.dtype
        self.attn_norm = RMSNorm(d, config.rms_norm_eps, dtype)
        self.attn = Attention(config, layer, precision)
        self.ffn_norm = RMSNorm(d, config.rms_norm_eps, dtype)
        self.ffn = MoE(config, layer, precision)
        for part in ("attn", "ffn"):
            for name, shape in (("fn", ((2 + hc) * hc, hc * d)), ("base", ((2 + hc) * hc,))):
                self._parameter(f"hc_{part}_{name}", *shape)
            self._parameter(f"hc_{part}_scale", 3)

    def _parameter(self, name: str, *shape: int) -> None:
        self.register_parameter(name, nn.Parameter(torch.empty(*shape, dtype=torch.float32)))

    def forward(
        self,
        x: Tensor,
        ids: Tensor,
        span: Span,
        state: LayerPast | None,
        study: Study | None = None,
    ) -> Tensor:
        """x [b, n, hc, d], ids [b, n] → [b, n, hc, d]. What is studied runs in plain operators."""
        if study is not None:
            return self.mix(self.attend(x, span, state, study), ids, span, study)
        runs: SubLayers = self.twin or self
        return runs.mix(runs.attend(x, span, state), ids, span)

    def attend(
        self, x: Tensor, span: Span, state: LayerPast | None, study: Study | None = None
    ) -> Tensor:
        """The attention sub-layer with its mHC: x [b, n, hc, d] → the same shape."""
        return self._connect("attn", x, lambda u: self.attn(self.attn_norm(u), span, state, study))

    def mix(self, x: Tensor, ids: Tensor, span: Span, study: Study | None = None) -> Tensor:
        """The MoE sub-layer with its mHC: x [b, n, hc, d], ids [b, n] → x's shape."""
        return self._connect("ffn", x, lambda u: self.ffn(self.ffn_norm(u), ids, study))

    def _connect(self, part: str, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        fn, scale, base = (getattr(self, f"hc_{part}_{name}") for name in ("fn", "scale", "base"))
        u, write = hyper.read(x, fn, scale, base, self.rule)
        return write(sublayer(u))


class StreamHead(nn.Module):
    """What turns streams into the input of the vocabulary projection.

    A mixin without a constructor: the release keeps these tensors beside the module's own.
    """

    config: Config
    hc_head_fn: Tensor
    hc_head_base: Tensor
    hc_head_scale: Tensor
    norm: RMSNorm

    def add_head(self, config: Config, dtype: torch.dtype) -> None:
        """Register the head's parameters on this module."""
        d, hc = config.hidden_size, config.hc_mult
        for name, shape in (("fn", (hc, hc * d)), ("base", (hc,)), ("scale", (1,))):
            parameter = nn.Parameter(torch.empty(shape, dtype=torch.float32))
            self.register_parameter(f"hc_head_{name}", parameter)
        self.norm = RMSNorm(d, config.rms_norm_eps, dtype)

    def collapse(self, streams: Tensor) -> Tensor:
        """streams [b, n, hc, d] → hidden [b, n, d], normalised."""
        return self.norm(self.fold(streams))

    def fold(self, streams: Tensor) -> Tensor:
        """streams [b, n, hc, d] → their weighted sum [b, n, d]."""
        return hyper.read_head(
            streams,
            self.hc_head_fn,
            self.hc_head_scale,
            self.hc_head_base,
            eps=self.config.hc_eps,
            norm_eps=self.config.rms_norm_eps,
        )
