"""Manifold-constrained hyper-connections (mHC): how a sub-layer F reads and writes hc streams.

z = (flatten(x) fnᵀ) · rsqrt(mean(flatten(x)²) + ε),  split as pre: hc | post: hc | comb: hc × hc
pre = sigmoid(z·scale₀ + base) + eps,  post = 2·sigmoid(z·scale₁ + base)
comb = Sinkhorn(softmax(z·scale₂ + base) + eps)
u = Σ_j pre_j · x_j;   y = F(u);   x'_k = post_k · y + Σ_j comb[j, k] · x_j
"""

from __future__ import annotations

import torch
from torch import Tensor


def gates(x: Tensor, fn: Tensor, norm_eps: float) -> Tensor:
    """z of every token, tokens last: x [.., hc, d], fn [out, hc·d] → float32 [out, tokens]."""
    flat = x.flatten(-2).flatten(0, -2).float()  # [tokens, hc·d]
    mean_square = torch.linalg.vector_norm(flat, dim=-1).square() / flat.shape[-1]
    return (fn @ flat.T) * torch.rsqrt(mean_square + norm_eps)


def sinkhorn(comb: Tensor, iterations: int, eps: float) -> Tensor:
    """Scale comb [row, column, tokens] towards rows and columns of sum 1 (report, section 2.2).

    Columns once, then rows and columns `iterations − 1` times.
    """
    comb = comb / (comb.sum(0, keepdim=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(1, keepdim=True) + eps)
        comb = comb / (comb.sum(0, keepdim=True) + eps)
    return comb


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
    z = gates(x, fn, norm_eps)  # [(2+hc)·hc, tokens]
    base = base.unsqueeze(-1)
    pre = torch.sigmoid(z[:hc] * scale[0] + base[:hc]) + eps
    post = 2 * torch.sigmoid(z[hc : 2 * hc] * scale[1] + base[hc : 2 * hc])
    logits = (z[2 * hc :] * scale[2] + base[2 * hc :]).view(hc, hc, -1)
    return pre, post, sinkhorn(torch.softmax(logits, dim=1) + eps, iterations, eps)


def head_coefficients(
    x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, *, eps: float, norm_eps: float
) -> Tensor:
    """The output head's weights: fn [hc, hc·d], scale [1], base [hc] → pre [hc, tokens]."""
    return torch.sigmoid(gates(x, fn, norm_eps) * scale + base.unsqueeze(-1)) + eps


def collapse(x: Tensor, pre: Tensor) -> Tensor:
    """u = Σ_j pre_j · x_j: x [.., hc, d], pre [hc, tokens] → [.., d] in x's dtype."""
    weights = pre.T.view(*x.shape[:-2], 1, x.shape[-2])
    return (weights @ x.float()).squeeze(-2).to(x.dtype)


def expand(x: Tensor, y: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """x'_k = post_k · y + Σ_j comb[j, k] · x_j: x [.., hc, d], y [.., d] → as x."""
    lead, hc = x.shape[:-2], x.shape[-2]
    mixed = comb.permute(2, 1, 0).view(*lead, hc, hc) @ x.float()
    written = post.T.view(*lead, hc, 1) * y.float().unsqueeze(-2)
    return (mixed + written).to(x.dtype)
