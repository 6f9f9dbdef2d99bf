"""y = H x / √dim, H[i, j] = (−1)^popcount(i & j): the orthonormal Hadamard matrix, Sylvester order.

It spreads an outlier over all channels before they are rounded, and leaves scalar products as they
are. Computed in float32 by log₂(dim) rounds of (a, b) → (a + b, a − b), neighbours first.
"""

from __future__ import annotations

import torch
from torch import Tensor


def can_rotate(dim: int) -> bool:
    """Whether dim is a power of two."""
    return dim > 0 and dim & (dim - 1) == 0


def rotate(x: Tensor) -> Tensor:
    """x float [.., dim] → the same shape and dtype. Raises ValueError unless dim is 2^n."""
    dim = x.shape[-1]
    if not can_rotate(dim):
        raise ValueError(
            f"a Hadamard rotation needs a power of two, got {dim} channels: choose an "
            "index_head_dim of 32, 64 or 128, or leave the rotation out"
        )
    y, size = x.float(), 1
    while size < dim:
        a, b = y.unflatten(-1, (-1, 2, size)).unbind(-2)  # [.., dim / (2·size), size]
        y = torch.stack((a + b, a - b), dim=-2).flatten(-3)
        size *= 2
    return (y * dim**-0.5).to(x.dtype)
