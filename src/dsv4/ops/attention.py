"""Attention of one block of queries to window and compressed entries, with a sink.

p = softmax over window ∪ entries of q·k / √c, with exp(sink_h) added to the denominator only
o = Σ_s p_s · k_s   (one head of entries serves as key and value for all query heads)
Rounded: o = Σ_s bf16(e_s) · k_s / (Σ_s e_s + exp(sink − top)), e_s = exp(q·k_s / √c − top)
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
    return attend_and_mass(q, window, window_mask, entries, entries_mask, sink)[0]


def attend_and_mass(
    q: Tensor,
    window: Tensor,
    window_mask: Tensor | None,
    entries: Tensor | None,
    entries_mask: Tensor | None,
    sink: Tensor,
) -> tuple[Tensor, Tensor]:
    """`attend`, and each entry's attention summed over heads: float32 [b, n, E], a constant."""
    b, n, heads, c = q.shape
    scaled = q * c**-0.5
    sources = [(window.unsqueeze(1), window_mask)]
    if entries is not None:
        sources.append((entries, entries_mask))
    scores = [_scores(scaled, keys, mask) for keys, mask in sources]
    scores.append(sink.view(1, 1, heads, 1).expand(b, n, heads, 1))
    probs = torch.softmax(torch.cat(scores, dim=-1), dim=-1)
    first = window.shape[1]
    mass = probs.detach()[..., first:-1].sum(2)  # [b, n, E]
    return _weighted(probs.to(q.dtype), [keys for keys, _ in sources]), mass


def attend_rounded(
    q: Tensor,
    window: Tensor,
    window_mask: Tensor | None,
    entries: Tensor | None,
    entries_mask: Tensor | None,
    sink: Tensor,
) -> Tensor:
    """`attend` as the release rounds: products of bfloat16 q and keys sum in float32, exponentials
    (top: the query's highest score, sink apart) are rounded to bfloat16 before they multiply the
    values, and the denominator sums them before that.
    """
    scale, exact = q.shape[-1] ** -0.5, q.float()
    sources = [(window.float().unsqueeze(1), window_mask)]
    if entries is not None:
        sources.append((entries.float(), entries_mask))
    scores = torch.cat([_scores(exact, keys, mask) * scale for keys, mask in sources], dim=-1)
    lowest = torch.finfo(torch.float32).min  # of a query that sees nothing
    top = scores.amax(-1, keepdim=True).clamp(min=lowest)  # [b, n, H, 1]
    exponentials = torch.exp(scores - top)
    total = exponentials.sum(-1, keepdim=True) + torch.exp(sink.unsqueeze(-1) - top)
    rounded = exponentials.to(torch.bfloat16).float()
    return (_weighted(rounded, [keys for keys, _ in sources]) / total).to(q.dtype)


def _weighted(probs: Tensor, sources: list[Tensor]) -> Tensor:
    """Σ_s p_s · k_s: probs [b, n, H, keys …], sources [b, 1 or n, keys, c] → [b, n, H, c]."""
    b, n, heads, _ = probs.shape
    out, first = [], 0
    for keys in sources:
        part = probs[..., first : first + keys.shape[2]]
        first += keys.shape[2]
        product = part.reshape(b, keys.shape[1], -1, keys.shape[2]) @ keys
        out.append(product.view(b, n, heads, -1))
    return out[0] if len(out) == 1 else out[0] + out[1]


def _scores(q: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """q [b, n, H, c] · keys [b, 1 or n, E, c] → float32 [b, n, H, E], −∞ where masked."""
    b, n, heads, c = q.shape
    scores = q.reshape(b, keys.shape[1], -1, c) @ keys.transpose(-1, -2)
    scores = scores.view(b, n, heads, -1).float()
    return scores if mask is None else scores.masked_fill(~mask.unsqueeze(2), -torch.inf)
