"""Pooling of token blocks into compressed entries.

entry_i = Σ_t w_t ⊙ v_t,  w = softmax_t(g_t + ape), per channel
HCA: t runs over block i. CSA: over block i−1 (channels [:c]) and block i (channels [c:]).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsv4.ops import native


def pool(values: Tensor, scores: Tensor) -> Tensor:
    """Σ_t softmax(scores)_t · values_t: both [b, blocks, t, c] → [b, blocks, c]."""
    if values.numel() and native.trainer(values, scores) is not None:
        y: Tensor = _Pool.apply(values.flatten(0, 1), scores.flatten(0, 1))
        return y.view(*values.shape[:2], -1)
    return (torch.softmax(scores, dim=2) * values).sum(dim=2)


class _Pool(torch.autograd.Function):
    """The native twin, which makes the softmax again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scores: Tensor) -> Tensor:
        ctx.module = native.trainer(values)
        assert ctx.module is not None
        given = values.detach().contiguous(), scores.detach().contiguous()
        y = values.new_empty(values.shape[0], values.shape[2])
        ctx.module.pool(*given, y)
        ctx.save_for_backward(*given, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        values, scores, y = ctx.saved_tensors
        to = torch.empty_like(values), torch.empty_like(scores)
        ctx.module.pool_back(values, scores, y, grads[0].contiguous(), *to)
        return to


def overlap(blocks: Tensor) -> Tensor:
    """Lay each block's predecessor before it: [b, 1 + blocks, m, 2c] → [b, blocks, 2m, c].

    The predecessor speaks through channels [:c], the block itself through [c:].
    """
    before, own = blocks.chunk(2, dim=-1)
    return torch.cat((before[:, :-1], own[:, 1:]), dim=2)
