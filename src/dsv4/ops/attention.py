"""Attention of one block of queries to window and compressed entries, with a sink.

p = softmax over window ∪ entries of q·k / √c, with exp(sink_h) added to the denominator only
o = Σ_s p_s · k_s   (one head of entries serves as key and value for all query heads)
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend(
    q: Tensor,
    window: Tensor,
    window_mask: Tensor | None,
    entries: Tensor | None,
    entries_mask: Tensor | None,
    sink: Tensor,
) -> Tensor:
    """q [b, n, H, c]; window [b, keys, c] → [b, n, H, c].

    `entries` is [b, 1, E, c] (every query of the block reads the same) or [b, n, E, c] (each query
    its own). A mask [b or 1, n, keys] is True where a query may look; None means everywhere.
    """
    b, n, heads, c = q.shape
    scaled = q * c**-0.5
    sources = [(window.unsqueeze(1), window_mask)]
    if entries is not None:
        sources.append((entries, entries_mask))
    scores = [_scores(scaled, keys, mask) for keys, mask in sources]
    scores.append(sink.view(1, 1, heads, 1).expand(b, n, heads, 1))
    probs = torch.softmax(torch.cat(scores, dim=-1), dim=-1).to(q.dtype)
    parts = probs.split([s.shape[-1] for s in scores], dim=-1)
    out = [
        (part.reshape(b, keys.shape[1], -1, keys.shape[2]) @ keys).view(b, n, heads, c)
        for part, (keys, _) in zip(parts, sources, strict=False)
    ]
    return out[0] if len(out) == 1 else out[0] + out[1]


def _scores(q: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """q [b, n, H, c] · keys [b, 1 or n, E, c] → float32 [b, n, H, E], −∞ where masked."""
    b, n, heads, c = q.shape
    scores = q.reshape(b, keys.shape[1], -1, c) @ keys.transpose(-1, -2)
    scores = scores.view(b, n, heads, -1).float()
    return scores if mask is None else scores.masked_fill(~mask.unsqueeze(2), -torch.inf)
