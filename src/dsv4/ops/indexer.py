"""The lightning indexer's choice: I[t, s] = Σ_h w[t, h] · relu(q[t, h] · k[s]), top-k over s.

Tie rule: among equal scores the more recent entry wins, so that neither chunking nor batching nor
threads can change a choice. NaN is above infinity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def index_scores(q: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    """q [b, n, heads, ic], weights [b, n, heads], keys [b, entries, ic] → [b, n, entries]."""
    b, n, heads, _ = q.shape
    scores = F.relu(q.flatten(1, 2) @ keys.transpose(1, 2)).view(b, n, heads, -1)
    return (weights.unsqueeze(2) @ scores).squeeze(2)


def top_entries(scores: Tensor, k: int) -> Tensor:
    """Indices of the k highest float32 scores along the last axis, the most recent first at a tie.

    scores [.., entries] → int64 [.., k].
    """
    one = torch.where(scores.isnan(), torch.nan, scores + 0.0)  # of each of −0 and 0, and NaN
    bits = one.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    entry = torch.arange(scores.shape[-1], device=scores.device)
    keys = (ordered.long() << 32) | entry  # distinct: score first, then recency
    return keys.topk(k, dim=-1).indices
