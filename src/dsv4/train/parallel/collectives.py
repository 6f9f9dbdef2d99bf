"""Collectives with gradients: the backward of each is its reverse.

A collective is for all of a group or for none. So every process must come to the backward of each,
in the same order, even if nothing that it computes depends on what it got: see `tie`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], got: list[int], group: Any) -> Tensor:
        ctx.sent, ctx.got, ctx.group = sent, got, group
        return _all_to_all(rows, sent, got, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(grads[0], ctx.got, ctx.sent, ctx.group), None, None, None


def _all_to_all(rows: Tensor, sent: list[int], got: list[int], group: Any) -> Tensor:
    out = rows.new_empty(sum(got), *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), got, sent, group=group)
    return out


def exchange(rows: Tensor, sent: Sequence[int], got: Sequence[int], group: Any) -> Tensor:
    """The first `sent[0]` rows go to process 0 of the group, and so on: rows [Σ sent, ..] →
    [Σ got, ..], those of process 0 first."""
    result: Tensor = _Exchange.apply(rows, list(sent), list(got), group)
    return result


def all_gather(out: Tensor, part: Tensor, group: Any) -> None:
    """Every process's part [n, ..], in their order, into out [processes · n, ..]. The older name of
    the collective is deprecated from torch 2.13 on, the newer one not there before."""
    called = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    called(out, part.contiguous(), group=group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any) -> Tensor:
        ctx.group = group
        out = part.new_empty(group.size() * part.shape[0], *part.shape[1:])
        all_gather(out, part, group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        whole = grads[0].contiguous()
        out = whole.new_empty(whole.shape[0] // ctx.group.size(), *whole.shape[1:])
        called = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        called(out, whole, group=ctx.group)
        return out, None


def gather(part: Tensor, group: Any) -> Tensor:
    """Every process's part, in their order: [n, ..] → [processes, n, ..]."""
    whole: Tensor = _Gather.apply(part, group)
    return whole.unflatten(0, (group.size(), -1))


class _Tie(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Tensor) -> Tensor:
        ctx.kinds = [(other.shape, other.dtype, other.device) for other in others]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        zeros = (torch.zeros(shape, dtype=dtype, device=at) for shape, dtype, at in ctx.kinds)
        return grads[0], *zeros


def tie(x: Tensor, others: Sequence[Tensor]) -> Tensor:
    """x, from which a gradient of zero reaches every one of `others` at least."""
    wanted = [other for other in others if other.requires_grad]
    result: Tensor = _Tie.apply(x, *wanted) if wanted else x
    return result
