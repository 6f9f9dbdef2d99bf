"""Manifold-constrained hyper-connections (mHC): how a sub-layer F reads and writes hc streams.

z = (flatten(x) fnᵀ) · rsqrt(mean(flatten(x)²) + ε),  split as pre: hc | post: hc | comb: hc × hc
pre = sigmoid(z·scale₀ + base) + eps,  post = 2·sigmoid(z·scale₁ + base)
comb = Sinkhorn(softmax(z·scale₂ + base) + eps)
u = Σ_j pre_j · x_j;   y = F(u);   x'_k = post_k · y + Σ_j comb[j, k] · x_j
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsv4.ops import native
from dsv4.ops.wide import wide


class Rule(NamedTuple):
    """How coefficients are made."""

    iterations: int
    eps: float
    norm_eps: float


def read(
    x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, rule: Rule
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What a sub-layer reads of x [.., hc, d]: u [.., d]; and what writes its y [.., d] to the
    streams, giving x'.

    The native twin keeps x, y and the logits of the coefficients for the backward, and makes the
    Sinkhorn iterations again.
    """
    module = native.trainer(x, fn, scale, base)
    if module is None or x.shape[-2] > MOST_STREAMS:
        pre, post, comb = coefficients(x, fn, scale, base, **rule._asdict())
        return collapse(x, pre), lambda y: expand(x, y, post, comb)
    rows = x.reshape(-1, *x.shape[-2:]).contiguous()
    u, found, rows = _Read.apply(rows, fn, scale, base, rule)

    def write(y: Tensor) -> Tensor:
        written: Tensor = _Write.apply(rows, y.reshape(u.shape), found)
        return written.view(x.shape)

    return u.view(*x.shape[:-2], -1), write


def read_head(
    x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, *, eps: float, norm_eps: float
) -> Tensor:
    """What the output head reads: x [.., hc, d] → [.., d]."""
    module = native.trainer(x, fn, scale, base)
    if module is None or x.shape[-2] > MOST_STREAMS:
        return collapse(x, head_coefficients(x, fn, scale, base, eps=eps, norm_eps=norm_eps))
    rows = x.reshape(-1, *x.shape[-2:]).contiguous()
    u: Tensor = _Read.apply(rows, fn, scale, base, Rule(0, eps, norm_eps), True)[0]
    return u.view(*x.shape[:-2], -1)


MOST_STREAMS = 8  # of the native twin


class _Read(torch.autograd.Function):
    """x [tokens, hc, d] → u, coefficients [tokens, (2 + hc)·hc] and x, which `write` takes: so its
    slope comes back here, and the two are added in one pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, rule: Rule, head: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.module, ctx.how = native.trainer(x), (*rule, head)
        assert ctx.module is not None
        given = [t.detach().contiguous() for t in (x, fn, scale, base)]
        tokens, out, d = x.shape[0], fn.shape[0], x.shape[2]
        z, norm = x.new_empty(tokens, out), x.new_empty(tokens)
        found, u = x.new_empty(tokens, out), x.new_empty(tokens, d)
        ctx.module.read(*given, *ctx.how, z, norm, found, u)
        ctx.save_for_backward(*given, z, norm, found)
        ctx.set_materialize_grads(False)
        return u, found, x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *given, z, norm, found = ctx.saved_tensors
        of_u, of_found, of_x = (None if g is None else g.contiguous() for g in grads)
        if of_u is None:
            of_u = torch.zeros_like(given[0][:, 0])
        to = [torch.empty_like(t) for t in given]
        ctx.module.read_back(*given, *ctx.how, z, norm, found, of_u, of_found, of_x, *to)
        return *to, None, None


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, found: Tensor) -> Tensor:
        ctx.module = native.trainer(x)
        assert ctx.module is not None
        given = [t.detach().contiguous() for t in (x, y, found)]
        written = torch.empty_like(given[0])
        ctx.module.write(*given, written)
        ctx.save_for_backward(*given)
        return written

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        given = ctx.saved_tensors
        to = [torch.empty_like(t) for t in given]
        ctx.module.write_back(*given, grads[0].contiguous(), *to)
        return tuple(to)


def gates(x: Tensor, fn: Tensor, norm_eps: float) -> Tensor:
    """z of every token, tokens last: x [.., hc, d], fn [out, hc·d] → float32 [out, tokens]."""
    flat = wide(x.flatten(-2).flatten(0, -2))  # [tokens, hc·d]
    mean_square = torch.linalg.vector_norm(flat, dim=-1).square() / flat.shape[-1]
    return (flat @ fn.T).T.contiguous() * torch.rsqrt(mean_square + norm_eps)


def sinkhorn(comb: Tensor, iterations: int, eps: float) -> Tensor:
    """Scale comb [row, column, tokens] towards rows and columns of sum 1 (report, section 2.2).

    Columns once, then rows and columns `iterations − 1` times. A product with a 0/1 matrix sums the
    entries that share a row (or column) and adds eps, for all of them at once.
    """
    rows, columns = _sharing(comb.shape[0], comb.device, comb.dtype)
    floor = comb.new_full((1, 1), eps)
    flat = comb.flatten(0, 1)  # [hc·hc, tokens]
    flat = flat / torch.addmm(floor, columns, flat)
    for _ in range(iterations - 1):
        flat = flat / torch.addmm(floor, rows, flat)
        flat = flat / torch.addmm(floor, columns, flat)
    return flat.view_as(comb)


@functools.cache
def _sizes(hc: int, device: torch.device) -> Tensor:
    """How many outputs of fn belong to pre, post and comb."""
    with torch.inference_mode(False):
        return torch.tensor([hc, hc, hc * hc], device=device)


@functools.cache
def _sharing(hc: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Which of the hc·hc entries share a row, and which share a column: 0/1 [hc·hc, hc·hc]."""
    with torch.inference_mode(False):  # kept: may be made while decoding, and used in training
        one = torch.eye(hc, device=device, dtype=dtype)
        all_ = torch.ones_like(one)
        return torch.kron(one, all_), torch.kron(all_, one)


def coefficients(
    x: Tensor,
    fn: Tensor,
    scale: Tensor,
    base: Tensor,
    *,
    iterations: int,
    eps: float,
    norm_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of one sub-layer, float32.

    x [.., hc, d], fn [(2+hc)·hc, hc·d], scale [3], base [(2+hc)·hc]
    → pre [hc, tokens], post [hc, tokens], comb [hc, hc, tokens].
    """
    hc = x.shape[-2]
    per_gate = scale.repeat_interleave(_sizes(hc, scale.device), output_size=base.shape[0])
    z = torch.addcmul(base.unsqueeze(1), gates(x, fn, norm_eps), per_gate.unsqueeze(1))
    pre, post, logits = z.split([hc, hc, hc * hc])  # each [.., tokens]
    comb = torch.softmax(logits.view(hc, hc, -1), dim=1) + eps
    return pre.sigmoid() + eps, post.sigmoid() * 2, sinkhorn(comb, iterations, eps)


def head_coefficients(
    x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, *, eps: float, norm_eps: float
) -> Tensor:
    """The output head's weights: fn [hc, hc·d], scale [1], base [hc] → pre [hc, tokens]."""
    return torch.sigmoid(gates(x, fn, norm_eps) * scale + base.unsqueeze(-1)) + eps


def collapse(x: Tensor, pre: Tensor) -> Tensor:
    """u = Σ_j pre_j · x_j: x [.., hc, d], pre [hc, tokens] → [.., d] in x's dtype."""
    rows = wide(x.flatten(0, -3))  # [tokens, hc, d]
    weights = pre.T.contiguous().unsqueeze(1)  # contiguous: small batched products need it
    return torch.bmm(weights, rows).view(*x.shape[:-2], -1).to(x.dtype)


def expand(x: Tensor, y: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """x'_k = post_k · y + Σ_j comb[j, k] · x_j: x [.., hc, d], y [.., d] → as x."""
    mixed = torch.bmm(comb.permute(2, 1, 0).contiguous(), wide(x.flatten(0, -3)))
    written = wide(y.flatten(0, -2)).unsqueeze(1)  # [tokens, 1, d]
    return torch.addcmul(mixed, post.T.unsqueeze(2), written).view_as(x).to(x.dtype)
