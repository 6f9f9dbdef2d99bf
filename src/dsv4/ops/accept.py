"""Which drafts stand, so that what is emitted is distributed as if nothing had been drafted.

x_1 … x_n drafted from Q_1 … Q_n; the model gives P_1 … P_{n+1} at their places.
greedy:   x_j stands while it is the argmax of P_j
sampled:  x_j stands with probability min(1, P_j(x_j) / Q_j(x_j))
then one token more: of P_{m+1}, m drafts standing; after a rejection of max(P_{m+1} − Q_{m+1}, 0),
renormalised. How many drafts are looked at may depend on anything that was known before x_{n+1}.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-8  # of a probability that divides, and of a residual mass that is one


def confident(confidence: Tensor, threshold: float) -> Tensor:
    """How many drafts come before the first whose sigmoid(c) is below the threshold.

    confidence float [.., n] → int64 [..]; a threshold of 0 keeps all.
    """
    return (confidence.sigmoid() >= threshold).long().cumprod(-1).sum(-1)


def own_confidence(logits: Tensor, drafts: Tensor) -> Tensor:
    """The logit of each draft's own probability Q_j(x_j): logits [.., n, V], drafts int64 [.., n]
    → float [.., n], whose sigmoid is Q_j(x_j)."""
    chosen = logits.gather(-1, drafts.unsqueeze(-1)).squeeze(-1)
    log_q = (chosen - logits.logsumexp(-1)).clamp(max=0)  # rounding must not lead past 1
    return log_q - (-log_q.expm1()).log()


def accept_greedy(drafts: Tensor, best: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """drafts int64 [.., n], the first `counts` [..] of them looked at; argmax of the model's rows
    [.., n + 1] → how many stand, int64 [..], and the token after them, int64 [..].
    """
    standing = _standing(drafts == best[..., :-1], counts)
    return standing, best.gather(-1, standing.unsqueeze(-1)).squeeze(-1)


def accept_sampled(
    drafts: Tensor, q: Tensor, p: Tensor, coins: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """drafts int64 [.., n] drawn from q [.., n, V]; p [.., n + 1, V]; coins uniform in [0, 1)
    [.., n]; the first `counts` [..] are looked at → how many stand, int64 [..], and what the next
    token is to be drawn from, [.., V].
    """
    chosen = drafts.unsqueeze(-1)
    wanted = p[..., :-1, :].gather(-1, chosen).squeeze(-1)
    had = q.gather(-1, chosen).squeeze(-1).clamp(min=LEAST)
    standing = _standing(coins * had < wanted, counts)
    model = _row(p, standing)
    draft = _row(torch.cat((q, torch.zeros_like(p[..., :1, :])), dim=-2), standing)
    draft = draft * (standing < counts).unsqueeze(-1)  # nothing was rejected: the row of P itself
    rest = (model - draft).clamp(min=0)
    mass = rest.sum(-1, keepdim=True)
    return standing, torch.where(mass > LEAST, rest / mass.clamp(min=LEAST), model)


def _standing(passed: Tensor, counts: Tensor) -> Tensor:
    """Length of the first run of True among the first `counts`: [.., n] → int64 [..]."""
    looked_at = torch.arange(passed.shape[-1], device=passed.device) < counts.unsqueeze(-1)
    return (passed & looked_at).long().cumprod(-1).sum(-1)


def _row(rows: Tensor, number: Tensor) -> Tensor:
    """rows [.., n, V], number [..] → [.., V]."""
    index = number[..., None, None].expand(*number.shape, 1, rows.shape[-1])
    return rows.gather(-2, index).squeeze(-2)
