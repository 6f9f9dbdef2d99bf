"""RMSNorm(x) = x · rsqrt(mean(x²) + ε) ⊙ weight, and the two linear forms of the release."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_normalise(x: Tensor, eps: float) -> Tensor:
    """x · rsqrt(mean(x²) + ε) over the last axis, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32."""

    def __init__(self, channels: int, eps: float, dtype: torch.dtype):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [.., channels] → the same shape and dtype."""
        return (rms_normalise(x, self.eps) * self.weight.float()).to(x.dtype)


class Linear(nn.Module):
    """y = x · weightᵀ, weight [out, in], in the model's dtype; no bias anywhere in V4."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [.., in] → [.., out]."""
        return F.linear(x, self.weight)


class Float32Linear(Linear):
    """The same, multiplied in float32 whatever the weight's dtype: compressors, router, head."""

    def forward(self, x: Tensor) -> Tensor:
        """x [.., in] → float32 [.., out]."""
        return F.linear(x.float(), self.weight.float())
