"""RMSNorm, and the linear forms of the release.

y = operand(x) · matrix()ᵀ: the forms differ in how they round x and where the matrix comes from.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4.model.precision import Precision, as_is, to_bfloat16
from dsv4.ops import products
from dsv4.ops.norm import rms_norm
from dsv4.quant import fp4, fp8


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32."""

    def __init__(self, channels: int, eps: float, dtype: torch.dtype):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x [.., channels] → the same shape and dtype."""
        return rms_norm(x, self.weight, self.eps).to(x.dtype)


class Linear(nn.Module):
    """y = x · weightᵀ, weight [out, in], in the model's dtype; no bias anywhere in V4. `low`: in
    products x and weight are rounded to bfloat16."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        dtype: torch.dtype,
        *,
        low: bool = False,
        round_input: Callable[[Tensor], Tensor] = as_is,
        round_weight: Callable[[Tensor], Tensor] = as_is,
    ):
        super().__init__()
        self.low, self.round_input, self.round_weight = low, round_input, round_weight
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))

    def operand(self, x: Tensor) -> Tensor:
        """x as it is multiplied."""
        return self.round_input(x)

    def matrix(self) -> Tensor:
        """The weight as it is multiplied: [out, in]."""
        return self.round_weight(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [.., in] → [.., out]."""
        return products.linear(self.operand(x), self.matrix(), low=self.low)


class Float32Linear(Linear):
    """The same, multiplied in float32 whatever the weight's dtype: compressors, router, head."""

    def operand(self, x: Tensor) -> Tensor:
        """x in float32."""
        return x.float()

    def matrix(self) -> Tensor:
        """The weight in float32."""
        return self.weight.float()


class PackedLinear(nn.Module):
    """y = operand(x) · (weight × scale)ᵀ from the bytes of a file, dequantised at each use.

    Buffers, attached by the reader: weight E4M3 [out, in] with scale [⌈out/128⌉, ⌈in/128⌉], or
    int8 [out, in/2] with scale [out, in/32], scales E8M0 or F32; or BF16 or F32 without a scale.
    """

    weight: Tensor
    scale: Tensor | None
    low = False  # `operand` rounds

    def __init__(self, round_input: Callable[[Tensor], Tensor], result: torch.dtype):
        super().__init__()
        self.round_input, self.result = round_input, result
        self.register_buffer("weight", torch.empty(0, device="meta"))
        self.register_buffer("scale", None)

    def operand(self, x: Tensor) -> Tensor:
        """x as it is multiplied, float32; only a packed weight asks for rounding."""
        return to_bfloat16(x) if self.scale is None else self.round_input(x)

    def matrix(self) -> Tensor:
        """The weight, float32 [out, in]."""
        return expand(self.weight, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """x [.., in] → [.., out] in the dtype `result`."""
        return F.linear(self.operand(x), self.matrix()).to(self.result)


def linear(
    inputs: int, outputs: int, precision: Precision, result: torch.dtype | None = None
) -> Linear | PackedLinear:
    """A linear that a quantised checkpoint stores as FP8 blocks; `result` overrides the dtype of
    a packed one's outputs.
    """
    if precision.packed:
        return PackedLinear(precision.operand, result or precision.dtype)
    return Linear(
        inputs,
        outputs,
        precision.dtype,
        low=precision.low,
        round_input=precision.operand,
        round_weight=precision.weight,
    )


def expand(weight: Tensor, scale: Tensor | None) -> Tensor:
    """A stored weight → float32 [out, in]."""
    if scale is None:
        return weight.float()
    return (fp4 if weight.dtype is torch.int8 else fp8).expand(weight, scale)
