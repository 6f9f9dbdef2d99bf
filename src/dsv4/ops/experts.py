"""Routed experts: y_t = Σ_e p_te · w2_e(silu(min(w1_e x_t, L)) ⊙ clamp(w3_e x_t, −L, L))

The routing weight multiplies the gated product, before w2. Tokens are sorted by expert, so that
each projection is one grouped matrix product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gate_product(up1: Tensor, up3: Tensor, limit: float) -> Tensor:
    """silu(min(up1, L)) ⊙ clamp(up3, −L, L), in float32."""
    return F.silu(up1.float().clamp(max=limit)) * up3.float().clamp(-limit, limit)


def routed_experts(
    x: Tensor, indices: Tensor, weights: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, limit: float
) -> Tensor:
    """x [tokens, d], indices and weights [tokens, k], w1 and w3 [E, i, d], w2 [E, d, i]
    → float32 [tokens, d].
    """
    tokens, k = indices.shape
    if tokens * k < w1.shape[0]:
        return _few_rows(x, indices, weights, w1, w2, w3, limit)
    order = indices.flatten().argsort(stable=True)  # [tokens·k], rows of one expert side by side
    counts = torch.bincount(indices.flatten(), minlength=w1.shape[0])
    ends = counts.cumsum(0).to(torch.int32)
    rows = F.embedding(order // k, x)  # [tokens·k, d]; its backward adds rows in parallel
    up1 = F.grouped_mm(rows, w1.transpose(1, 2), offs=ends)
    up3 = F.grouped_mm(rows, w3.transpose(1, 2), offs=ends)
    gated = gate_product(up1, up3, limit) * weights.flatten()[order].unsqueeze(-1)
    out = F.grouped_mm(gated.to(x.dtype), w2.transpose(1, 2), offs=ends)  # [tokens·k, d]
    back = torch.empty_like(order).scatter_(0, order, torch.arange(tokens * k, device=x.device))
    return F.embedding(back, out).view(tokens, k, -1).float().sum(1)


def _few_rows(
    x: Tensor, indices: Tensor, weights: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, limit: float
) -> Tensor:
    """The same, with fewer rows than experts: each row visits its own, and nothing is sorted."""
    tokens, k = indices.shape
    chosen = indices.flatten().tolist()
    rows = x.repeat_interleave(k, dim=0).split(1)  # tokens·k times [1, d]
    up1 = torch.cat([F.linear(row, w1[e]) for row, e in zip(rows, chosen, strict=True)])
    up3 = torch.cat([F.linear(row, w3[e]) for row, e in zip(rows, chosen, strict=True)])
    gated = (gate_product(up1, up3, limit) * weights.view(-1, 1)).to(x.dtype).split(1)
    out = torch.cat([F.linear(row, w2[e]) for row, e in zip(gated, chosen, strict=True)])
    return out.view(tokens, k, -1).float().sum(1)
