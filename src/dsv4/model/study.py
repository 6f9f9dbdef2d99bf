"""What training asks of a layer beside its streams, and what the layer tells it.

Warm-up and sparse stage of the indexer (report, section 2.3; DSA):
L = Σ_t KL(p_t ‖ softmax(I_t)),  p_t = attention summed over heads, renormalised over the entries
that are compared: all visible ones where attention is dense, the chosen ones where it is sparse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dsv4.ops.indexer import top_entries


@dataclass
class Study:
    """One layer in one forward. The first three fields are the question, the others the answer;
    what a layer does not have stays None.
    """

    dense: bool = False  # a CSA layer attends to every visible entry
    index: bool = False  # compare the indexer with attention
    experts: Tensor | None = None  # int64 [tokens, k]: experts chosen before; weights are current
    log_scores: Tensor | None = None  # float32 [tokens, E]: log √softplus of the router
    indices: Tensor | None = None  # int64 [tokens, k]: the experts that ran
    kl: Tensor | None = None  # float32 [b, n]: KL(p_t ‖ softmax(I_t)), 0 where nothing is visible
    recall: Tensor | None = None  # float32 [b, n]: share of p_t on the index_topk best entries
    seen: Tensor | None = None  # bool [b, n]: some entry is visible


class Found(NamedTuple):
    """The indexer against the attention of one block of queries: each [b, queries]."""

    kl: Tensor
    recall: Tensor
    seen: Tensor

    @classmethod
    def nothing(cls, queries: Tensor) -> Found:
        """Of queries [b, queries, ..] that see no entry."""
        zero = torch.zeros(queries.shape[:2], device=queries.device)
        return cls(zero, zero, zero.bool())

    @classmethod
    def of(cls, mass: Tensor, scores: Tensor, mask: Tensor | None, topk: int) -> Found:
        """mass and scores float32 [b, queries, entries], mask bool [b or 1, queries, entries]."""
        real = torch.ones_like(mass, dtype=torch.bool) if mask is None else mask.expand_as(mass)
        p = _normalised(mass.masked_fill(~real, 0))
        with torch.no_grad():
            order = top_entries(scores.masked_fill(~real, -torch.inf), min(topk, p.shape[-1]))
            recall = p.gather(-1, order).sum(-1)
        return cls(index_kl(p, scores, real), recall, real.any(-1))


def _normalised(mass: Tensor) -> Tensor:
    return mass / mass.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def index_kl(p: Tensor, scores: Tensor, real: Tensor) -> Tensor:
    """KL(p ‖ softmax of scores over what is real) → [..]; 0 where nothing is.

    p (a constant), scores float32 and real bool, each [.., entries].
    """
    hidden = ~real & real.any(-1, keepdim=True)
    log_q = scores.masked_fill(hidden, -torch.inf).log_softmax(-1)
    return (torch.xlogy(p, p) - p * log_q.masked_fill(~real, 0)).sum(-1)
