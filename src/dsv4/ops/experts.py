"""Routed experts: y_t = Σ_e p_te · w2_e(silu(min(w1_e x_t, L)) ⊙ clamp(w3_e x_t, −L, L))

The routing weight multiplies the gated product, before w2. Tokens are sorted by expert, so that
each projection is one grouped matrix product. `low`: products round their operands to bfloat16
(ops/products.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsv4.ops import native
from dsv4.ops.products import linear
from dsv4.ops.wide import wide


def gate_product(up1: Tensor, up3: Tensor, limit: float) -> Tensor:
    """silu(min(up1, L)) ⊙ clamp(up3, −L, L), in float32."""
    return F.silu(wide(up1).clamp(max=limit)) * wide(up3).clamp(-limit, limit)


def routed_experts(
    x: Tensor,
    indices: Tensor,
    weights: Tensor,
    w1: Tensor,
    w2: Tensor,
    w3: Tensor,
    limit: float,
    *,
    low: bool = False,
    operand: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """x [tokens, d], indices and weights [tokens, k], w1 and w3 [E, i, d], w2 [E, d, i]
    → float32 [tokens, d]. `operand` rounds what the matrices multiply, row by row.
    """
    tokens, k = indices.shape
    if operand is not None:
        return _one_by_one(operand(x), indices, weights, w1, w2, w3, limit, low, operand)
    if tokens * k < w1.shape[0] and not low:
        return _few_rows(x, indices, weights, w1, w2, w3, limit)
    if native.trainer(x, w1, w2, w3) is not None:
        y: Tensor = _RoutedExperts.apply(x, indices, weights, w1, w2, w3, limit, low)
        return y
    if low or x.dtype is torch.float64:  # grouped_mm takes none
        return _one_by_one(x, indices, weights, w1, w2, w3, limit, low)
    order = indices.flatten().argsort(stable=True)  # [tokens·k], rows of one expert side by side
    counts = torch.bincount(indices.flatten(), minlength=w1.shape[0])
    ends = counts.cumsum(0).to(torch.int32)
    rows = F.embedding(order // k, x)  # [tokens·k, d]; its backward adds rows in parallel
    up1 = F.grouped_mm(rows, w1.transpose(1, 2), offs=ends)
    up3 = F.grouped_mm(rows, w3.transpose(1, 2), offs=ends)
    gated = gate_product(up1, up3, limit) * weights.flatten()[order].unsqueeze(-1)
    out = F.grouped_mm(gated.to(x.dtype), w2.transpose(1, 2), offs=ends)  # [tokens·k, d]
    back = torch.empty_like(order).scatter_(0, order, torch.arange(tokens * k, device=x.device))
    return wide(F.embedding(back, out).view(tokens, k, -1)).sum(1)


def _one_by_one(
    x: Tensor,
    indices: Tensor,
    weights: Tensor,
    w1: Tensor,
    w2: Tensor,
    w3: Tensor,
    limit: float,
    low: bool,
    operand: Callable[[Tensor], Tensor] = lambda gated: gated,
) -> Tensor:
    """The same, expert by expert, of rows that are rounded already."""
    y = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    for e in indices.unique().tolist():
        token, place = (indices == e).nonzero(as_tuple=True)
        rows = x[token]
        up1, up3 = linear(rows, w1[e], low=low), linear(rows, w3[e], low=low)
        gated = gate_product(up1, up3, limit) * weights[token, place].unsqueeze(-1)
        y = y.index_add(0, token, linear(operand(gated), w2[e], low=low))
    return y


class _RoutedExperts(torch.autograd.Function):
    """The native twin. It keeps what silu takes, and makes the rest again."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        indices: Tensor,
        weights: Tensor,
        w1: Tensor,
        w2: Tensor,
        w3: Tensor,
        limit: float,
        low: bool,
    ) -> Tensor:
        module = native.trainer(x)
        assert module is not None
        given = [t.detach().contiguous() for t in (x, indices, weights, w1, w2, w3)]
        ups = x.new_empty(2, indices.numel(), w1.shape[1])
        y = x.new_empty(x.shape)
        module.experts(*given, limit, low, *ups, y)
        ctx.save_for_backward(*given, ups)
        ctx.module, ctx.limit, ctx.low = module, limit, low
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *given, ups = ctx.saved_tensors
        x, _, weights, w1, w2, w3 = given
        to = [torch.empty_like(t) for t in (x, weights, w1, w2, w3)]
        slope = grads[0].contiguous()
        ctx.module.experts_back(*given, ctx.limit, ctx.low, *ups, slope, *to)
        to_x, to_weights, to_w1, to_w2, to_w3 = to
        return to_x, None, to_weights, to_w1, to_w2, to_w3, None, None


def _few_rows(
    x: Tensor, indices: Tensor, weights: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, limit: float
) -> Tensor:
    """The same, with fewer rows than experts: each row visits its own, and nothing is sorted."""
    tokens, k = indices.shape
    chosen = indices.flatten().tolist()
    rows = x.repeat_interleave(k, dim=0).split(1)  # tokens·k times [1, d]
    up1 = torch.cat([linear(row, w1[e]) for row, e in zip(rows, chosen, strict=True)])
    up3 = torch.cat([linear(row, w3[e]) for row, e in zip(rows, chosen, strict=True)])
    gated = (gate_product(up1, up3, limit) * weights.view(-1, 1)).to(x.dtype).split(1)
    out = torch.cat([linear(row, w2[e]) for row, e in zip(gated, chosen, strict=True)])
    return wide(out.view(tokens, k, -1)).sum(1)
