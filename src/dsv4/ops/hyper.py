"""Manifold-constrained hyper-connections (mHC): how a sub-layer F reads and writes hc streams.

z = (flatten(x) fnᵀ) · rsqrt(mean(flatten(x)²) + ε),  split as pre: hc | post: hc | comb: hc × hc
pre = sigmoid(z·scale₀ + base) + eps,  post = 2·sigmoid(z·scale₁ + base)
comb = Sinkhorn(softmax(z·scale₂ + base) + eps)
u = Σ_j pre_j · x_j;   y = F(u);   x'_k = post_k · y + Σ_j comb[j, k] · x_j
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def gates(x: Tensor, fn: Tensor, norm_eps: float) -> Tensor:
    """z of every token, tokens last: x [.., hc, d], fn [out, hc·d] → float32 [out, tokens]."""
    flat = x.flatten(-2).flatten(0, -2).float()  # [tokens, hc·d]
    mean_square = torch.linalg.vector_norm(flat, dim=-1).square() / flat.shape[-1]
    return (flat @ fn.T).T.contiguous() * torch.rsqrt(mean_square + norm_eps)


def sinkhorn(comb: Tensor, iterations: int, eps: float) -> Tensor:
    """Scale comb [row, column, tokens] towards rows and columns of sum 1 (report, section 2.2).

    Columns once, then rows and columns `iterations − 1` times. A product with a 0/1 matrix sums the
    entries that share a row (or column) and adds eps, for all of them at once.
    """
    rows, columns = _sharing(comb.shape[0], comb.device)
    floor = torch.full((1, 1), eps, device=comb.device)
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
def _sharing(hc: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of the hc·hc entries share a row, and which share a column: 0/1 [hc·hc, hc·hc]."""
    with torch.inference_mode(False):  # kept: may be made while decoding, and used in training
        one, all_ = torch.eye(hc, device=device), torch.ones(hc, hc, device=device)
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
    rows = x.flatten(0, -3).float()  # [tokens, hc, d]
    weights = pre.T.contiguous().unsqueeze(1)  # contiguous: small batched products need it
    return torch.bmm(weights, rows).view(*x.shape[:-2], -1).to(x.dtype)


def expand(x: Tensor, y: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """x'_k = post_k · y + Σ_j comb[j, k] · x_j: x [.., hc, d], y [.., d] → as x."""
    mixed = torch.bmm(comb.permute(2, 1, 0).contiguous(), x.flatten(0, -3).float())
    written = y.flatten(0, -2).float().unsqueeze(1)  # [tokens, 1, d]
    return torch.addcmul(mixed, post.T.unsqueeze(2), written).view_as(x).to(x.dtype)
