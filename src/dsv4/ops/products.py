"""Matrix products y = x · wᵀ and their gradients, in float32 or with operands rounded to bfloat16.

y = r(x) · r(w)ᵀ,  dx = r(g) · r(w),  dw = r(g)ᵀ · r(x),  r: to bfloat16 where `low`
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsv4.ops import native
from dsv4.ops.wide import wide

ROWS = 32  # fewer are not worth laying a weight out for


def linear(x: Tensor, weight: Tensor, *, low: bool = False) -> Tensor:
    """x [.., in], weight [out, in] → [.., out]; float32 where `low`."""
    many = x.numel() >= ROWS * x.shape[-1]
    if low or (many and native.trainer(x, weight) is not None):
        y: Tensor = _Linear.apply(x, weight, low)
        return y
    return F.linear(x, weight)


def multiply(a: Tensor, b: Tensor, *, low: bool, out: Tensor | None = None) -> Tensor:
    """a [m, k] · b [k, n] → float32 [m, n], in `out` where it is given; no gradient."""
    module = native.trainer(a, b)
    if module is None:
        return torch.mm(rounded(a, low=low), rounded(b, low=low), out=out)
    if out is None:
        out = a.new_empty(a.shape[0], b.shape[1])
    module.multiply_floats(_lines(a), _lines(b), out, low, False)
    return out


def add_product(to: Tensor, a: Tensor, b: Tensor, *, low: bool) -> None:
    """to [m, n] += a [m, k] · b [k, n]."""
    module = native.trainer(a, b)
    if module is None:
        to.addmm_(rounded(a, low=low), rounded(b, low=low))
    else:
        module.multiply_floats(_lines(a), _lines(b), to, low, True)


def rounded(x: Tensor, *, low: bool) -> Tensor:
    """x in float32, rounded to bfloat16 where `low`."""
    return x.to(torch.bfloat16).float() if low else wide(x)


def _lines(x: Tensor) -> Tensor:
    """A matrix whose rows or columns lie side by side."""
    x = x.detach()
    return x if 1 in x.stride() or 1 in x.shape else x.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, low: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.low = low
        return multiply(_rows(x), weight.T, low=low).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        g, low = _rows(grads[0]), ctx.low
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = multiply(g, weight, low=low).view_as(x).to(x.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = multiply(g.T, _rows(x), low=low).to(weight.dtype)
        return to_x, to_weight, None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def grouped_linear(x: Tensor, weight: Tensor, *, low: bool = False) -> Tensor:
    """Group g of x [.., G, in] by weight [G, out, in] → [.., G, out]."""
    groups = zip(x.unbind(-2), weight, strict=True)
    return torch.stack([linear(part, matrix, low=low) for part, matrix in groups], dim=-2)
