"""Pooling of token blocks into compressed entries.

entry_i = Σ_t w_t ⊙ v_t,  w = softmax_t(g_t + ape), per channel
HCA: t runs over block i. CSA: over block i−1 (channels [:c]) and block i (channels [c:]).
"""

from __future__ import annotations

import torch
from torch import Tensor


def pool(values: Tensor, scores: Tensor) -> Tensor:
    """Σ_t softmax(scores)_t · values_t: both [b, blocks, t, c] → [b, blocks, c]."""
    return (torch.softmax(scores, dim=2) * values).sum(dim=2)


def overlap(blocks: Tensor) -> Tensor:
    """Lay each block's predecessor before it: [b, 1 + blocks, m, 2c] → [b, blocks, 2m, c].

    The predecessor speaks through channels [:c], the block itself through [c:].
    """
    before, own = blocks.chunk(2, dim=-1)
    return torch.cat((before[:, :-1], own[:, 1:]), dim=2)
