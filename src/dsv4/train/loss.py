"""Next-token and MTP cross-entropy without a whole [tokens × vocabulary] tensor, and load balance.

L = CE(head(h_t), x_{t+1}) + w_mtp · CE(head(h'_t), x_{t+2}) + α · Σ_i f_i · P_i
f_i = E/(k·T) × tokens of the sequence that chose expert i,  P_i = mean of s_i / Σ s
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.model.moe import Gate
from dsv4.model.transformer import Transformer
from dsv4.train.data import IGNORE, Batch

CHUNK = 1024  # rows of logits that exist at a time
BALANCE = 1e-4
BIAS_STEP = 1e-3


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Mean loss; the gradients are made here, chunk by chunk, and kept in place of logits."""
        rows, table = hidden.float(), weight.float()
        count = (targets != IGNORE).sum().clamp(min=1)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(rows) if wanted else None
        grad_weight = torch.zeros_like(table) if wanted else None
        total = rows.new_zeros(())
        for first in range(0, rows.shape[0], CHUNK):
            part, target = rows[first : first + CHUNK], targets[first : first + CHUNK]
            logits = part @ table.T  # [chunk, vocab], float32
            real, gold = target != IGNORE, target.clamp(min=0).unsqueeze(1)
            norm = logits.logsumexp(1, keepdim=True)
            total += ((norm - logits.gather(1, gold)).squeeze(1) * real).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            slope = logits.sub_(norm).exp_()
            slope.scatter_add_(1, gold, slope.new_full(gold.shape, -1.0))
            slope.mul_(real.unsqueeze(1) / count)
            torch.mm(slope, table, out=grad_hidden[first : first + CHUNK])
            grad_weight.addmm_(slope.T, part)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        to_hidden, to_weight = ctx.dtypes
        return (grad_hidden * grads[0]).to(to_hidden), (grad_weight * grads[0]).to(to_weight), None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of `hidden @ weight.T`: hidden [N, d], weight [V, d], targets int64 [N]
    (−100: not counted) → a float32 scalar.
    """
    result: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)
    return result


def losses(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The next-token loss, and the MTP loss if the model has that block."""
    streams = model.streams(batch.ids)
    weight = model.head.weight
    hidden = model.collapse(streams).flatten(0, 1)
    next_token = linear_cross_entropy(hidden, weight, batch.targets.flatten())
    if not model.mtp:
        return next_token, None
    drafted = model.draft_hidden(model.draft_streams(streams, batch.next_ids)).flatten(0, 1)
    return next_token, linear_cross_entropy(drafted, weight, batch.mtp_targets.flatten())


def gates(model: Transformer) -> list[Gate]:
    """The learned routers, whose load is to be balanced."""
    return [m for m in model.modules() if isinstance(m, Gate) and not m.hashed]


def balance_loss(model: Transformer, sequences: int) -> Tensor:
    """α · Σ_i f_i · P_i, the mean over sequences, summed over the learned routers."""
    total = torch.zeros((), device=model.device)
    for gate in gates(model):
        scores = gate.last_log_scores.unflatten(0, (sequences, -1))  # [b, n, E]
        chosen = F.one_hot(gate.last_indices, scores.shape[-1]).sum(1).unflatten(0, (sequences, -1))
        share = chosen.float().mean(1) * (scores.shape[-1] / gate.topk)  # f [b, E]
        wanted = scores.softmax(-1).mean(1)  # P [b, E]
        total = total + (share * wanted).sum(-1).mean()
    return BALANCE * total


@torch.no_grad()
def update_bias(model: Transformer) -> None:
    """bias_i += 0.001 · sign(mean load − load_i), from the last forward's choices."""
    for gate in gates(model):
        load = torch.bincount(gate.last_indices.flatten(), minlength=gate.bias.shape[0]).float()
        gate.bias += BIAS_STEP * torch.sign(load.mean() - load)
