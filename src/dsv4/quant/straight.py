"""Rounding that training sees through: forward Q(x), backward the slope of x itself.

Weights go through the quantiser that writes a checkpoint, so what a step multiplies is what its
export holds, bit for bit. FP4 values are exact in FP8 blocks (checkpoint.md), so an expert that is
multiplied in FP8 needs no second rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dsv4.quant import entries, fp4, fp8, hadamard
from dsv4.quant.activations import round_fp8


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight(x: Tensor, quantise: Callable[[Tensor], Tensor]) -> Tensor:
    """`quantise(x)` in x's dtype, to the bit; its gradient is that of x."""
    with torch.no_grad():
        rounded = quantise(x).to(x.dtype)
    result: Tensor = _Straight.apply(x, rounded)
    return result


def fp8_operand(x: Tensor) -> Tensor:
    """x [.., in], each row in groups of 128 channels, as FP8 holds them."""
    return straight(x, round_fp8)


def fp8_weight(weight: Tensor) -> Tensor:
    """weight [.., out, in], each matrix in 128 × 128 blocks, as an FP8 checkpoint holds it."""
    return straight(weight, lambda w: _each(w, lambda one: fp8.expand(*fp8.quantize(one))))


def fp4_weight(weight: Tensor) -> Tensor:
    """weight [.., in], in blocks of 32 along a row, as an FP4 checkpoint holds it."""
    return straight(weight, lambda w: fp4.expand(*fp4.quantize(w)))


def entry(x: Tensor, rotary: int) -> Tensor:
    """x [.., c], a cache entry: FP8 but for the last `rotary` channels, which are BF16."""
    channels = x.shape[-1]
    return straight(
        x,
        lambda rows: entries.unpack_entry(
            entries.pack_entry(rows, rotary), channels, rotary, torch.float32
        ),
    )


def index_key(x: Tensor) -> Tensor:
    """x [.., ic], an indexer's key or query: rotated by Hadamard where it can be, then FP4."""
    channels = x.shape[-1]
    turned = hadamard.rotate(x) if hadamard.can_rotate(channels) else x
    return straight(turned, lambda rows: entries.unpack_key(entries.pack_key(rows), channels))


def _each(weight: Tensor, quantise: Callable[[Tensor], Tensor]) -> Tensor:
    """`quantise` of each matrix of a stack [.., out, in]."""
    if weight.dim() == 2:
        return quantise(weight)
    return torch.stack([_each(part, quantise) for part in weight])
