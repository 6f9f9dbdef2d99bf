"""The terms of the training loss; no [tokens × vocabulary] tensor is ever whole.

L = CE(head(h_t), x_{t+1}) + w_mtp · CE(head(h'_t), x_{t+2}) + α · Σ_i f_i · P_i + KL of the indexer
f_i = E/(k·T) × tokens of the sequence that chose expert i,  P_i = mean of s_i / Σ s
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.model.block import Block
from dsv4.model.moe import Gate
from dsv4.model.study import Study
from dsv4.model.transformer import Transformer
from dsv4.ops.products import add_product, multiply
from dsv4.ops.surprise import surprise
from dsv4.ops.wide import wide
from dsv4.train.data import IGNORE, Batch
from dsv4.train.whole import WHOLE, Whole

CHUNK = 512  # rows of logits that exist at a time
BALANCE = 1e-4
BIAS_STEP = 1e-3


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor, low: bool
    ) -> Tensor:
        """Mean loss; the gradients are made here, chunk by chunk, and kept in place of logits."""
        rows, table = wide(hidden), wide(weight)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(rows) if wanted else None
        grad_weight = torch.zeros_like(table) if wanted else None
        total = rows.new_zeros(())
        # one block of logits for all chunks: pages that are new to the process cost more than sums
        block = rows.new_empty(min(CHUNK, rows.shape[0]), table.shape[0])
        for first in range(0, rows.shape[0], CHUNK):
            part, target = rows[first : first + CHUNK], targets[first : first + CHUNK]
            logits = block[: part.shape[0]]  # [chunk, vocab], float32
            multiply(part, table.T, low=low, out=logits)
            factor = 1 / count if wanted else None
            total += surprise(logits, target, factor)  # logits are their slopes from here on
            if grad_hidden is None or grad_weight is None:
                continue
            multiply(logits, table, low=low, out=grad_hidden[first : first + CHUNK])
            add_product(grad_weight, logits.T, part, low=low)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        to_hidden, to_weight = ctx.dtypes
        by_hidden, by_weight = grad_hidden, grad_weight
        if grads[0] != 1:
            by_hidden, by_weight = grad_hidden * grads[0], grad_weight * grads[0]
        return by_hidden.to(to_hidden), by_weight.to(to_weight), None, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, whole: Whole = WHOLE, *, low: bool = False
) -> Tensor:
    """Mean cross-entropy of `hidden @ weight.T`: hidden [N, d], weight [V, d], targets int64 [N]
    (−100: not counted) → a float32 scalar (float64: of float64). `low`: operands of products are
    rounded to bfloat16.
    """
    count = whole.over_all((targets != IGNORE).sum()).clamp(min=1)
    result: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, count, low)
    return result


@dataclass(frozen=True)
class Losses:
    """The terms of one batch, float32 scalars; a term that the batch does not have is None."""

    next_token: Tensor
    mtp: Tensor | None
    balance: Tensor
    index: Tensor | None  # Σ over CSA layers of the mean KL of the queries that see an entry
    recall: Tensor | None  # of those queries: their dense attention on the indexer's best entries
    loads: Tensor  # [gates, E]: tokens that each learned router gave each expert

    def over_all(self, whole: Whole) -> Losses:
        """The terms of the whole batch, as constants."""
        terms = {name: term for name, term in vars(self).items() if term is not None}
        flat = torch.cat([term.detach().flatten().float() for term in terms.values()])
        pieces = whole.over_all(flat).split([term.numel() for term in terms.values()])
        summed = zip(terms.items(), pieces, strict=True)
        return replace(self, **{name: part.view_as(term) for (name, term), part in summed})


def losses(
    model: Transformer,
    batch: Batch,
    *,
    dense: bool = False,
    index: bool = False,
    experts: Sequence[Tensor] | None = None,
    alpha: float = BALANCE,
    whole: Whole = WHOLE,
) -> Losses:
    """One forward. `dense`: CSA layers attend to every entry that they see. `index`: the indexer is
    compared with attention (over what the layer attends to). `experts`: those of each layer, chosen
    before (int64 [b·n, k]). `alpha`: the weight in `balance`."""
    studies = model.new_studies(dense=dense, index=index)
    if experts is not None:
        for study, told in zip(studies, experts, strict=True):
            study.experts = told
    documents, past = batch.documents, whole.past(model, batch.first)
    streams = model.streams(batch.ids, documents=documents, studies=studies, past=past)
    weight, low = model.head.weight, model.precision.low
    hidden = model.collapse(streams).flatten(0, 1)
    next_token = linear_cross_entropy(hidden, weight, batch.targets.flatten(), whole, low=low)
    mtp = None
    if model.mtp:
        study = studies[len(model.layers)]
        drafted = model.draft_streams(
            streams, batch.next_ids, documents=documents, study=study, past=past
        )
        guess = model.draft_hidden(drafted).flatten(0, 1)
        mtp = linear_cross_entropy(guess, weight, batch.mtp_targets.flatten(), whole, low=low)
    real = real_tokens(batch)
    kl, recall = _index(studies, real, whole)
    recall = recall if dense else None  # of what the indexer chose itself it is 1
    learned = [study for gate, study in routers(model, studies) if not gate.hashed]
    balance = balance_loss(learned, real, whole, alpha)
    return Losses(next_token, mtp, balance, kl, recall, loads(learned, real))


def real_tokens(batch: Batch) -> Tensor:
    """Which columns are tokens and no padding: bool [b, n]."""
    b, n = batch.ids.shape
    if batch.documents is None:
        return torch.ones(b, n, dtype=torch.bool, device=batch.ids.device)
    held = torch.tensor([sum(each) for each in batch.documents], device=batch.ids.device)
    return batch.first + torch.arange(n, device=batch.ids.device) < held.unsqueeze(1)


def routers(model: Transformer, studies: Sequence[Study]) -> list[tuple[Gate, Study]]:
    """Every router with what its layer's study says."""
    blocks = [*model.layers, *model.mtp][: len(studies)]
    return [(cast(Block, block).ffn.gate, s) for block, s in zip(blocks, studies, strict=True)]


def balance_loss(
    learned: Sequence[Study], real: Tensor, whole: Whole = WHOLE, alpha: float = BALANCE
) -> Tensor:
    """α · Σ_i f_i · P_i, the mean over sequences, summed over the learned routers; bool [b, n] says
    which tokens are real."""
    total = torch.zeros((), device=real.device)
    count = whole.over_row(real.sum(1, keepdim=True))  # T [b, 1]
    rows = (whole.over_all((count > 0).sum()) / whole.sharing).clamp(min=1)
    count = count.clamp(min=1)
    shares = whole.over_row(_shares(learned, real))  # f · T, summed over the row [routers, b, E]
    for study, share in zip(learned, shares, strict=True):
        assert study.log_scores is not None
        scores = study.log_scores.softmax(-1).view(*real.shape, -1)
        wanted = (scores * real.unsqueeze(2)).sum(1) / count  # P [b, E]
        total = total + (share / count * wanted).sum()
    return alpha * total / rows


def _shares(learned: Sequence[Study], real: Tensor) -> Tensor:
    """E/k × how many tokens of each sequence chose each expert: float32 [routers, b, E]."""
    rows = []
    for study in learned:
        assert study.log_scores is not None and study.indices is not None
        experts, k = study.log_scores.shape[1], study.indices.shape[1]
        chosen = F.one_hot(study.indices, experts).sum(1).view(*real.shape, experts)
        rows.append((chosen * real.unsqueeze(2)).sum(1) * (experts / k))
    return torch.stack(rows) if rows else torch.zeros(0, device=real.device)


def loads(learned: Sequence[Study], real: Tensor) -> Tensor:
    """How many real tokens each router gave each expert: float32 [routers, E]."""
    rows = []
    for study in learned:
        assert study.log_scores is not None and study.indices is not None
        chosen = study.indices[real.flatten()].flatten()
        rows.append(torch.bincount(chosen, minlength=study.log_scores.shape[1]).float())
    return torch.stack(rows) if rows else torch.zeros(0, 0, device=real.device)


@torch.no_grad()
def update_bias(model: Transformer, load: Tensor, step: float = BIAS_STEP) -> None:
    """bias_i += step · sign(mean load − load_i), with the `loads` of a whole batch."""
    for gate, row in zip(gates(model), load, strict=True):
        gate.bias += step * torch.sign(row.mean() - row)


def gates(model: Transformer) -> list[Gate]:
    """The learned routers, in the order of `loads`."""
    return [gate for gate, _ in routers(model, model.new_studies()) if not gate.hashed]


def _index(
    studies: Sequence[Study], real: Tensor, whole: Whole
) -> tuple[Tensor | None, Tensor | None]:
    """The indexer's loss and its recall, where it was compared."""
    found, masks = [], []
    for study in studies:
        if study.kl is not None and study.recall is not None and study.seen is not None:
            masks.append(study.seen & real)
            found.append(torch.stack((study.kl, study.recall)) * masks[-1])
    if not found:
        return None, None
    counts = whole.over_all(torch.stack(masks).sum((1, 2))).clamp(min=1)  # [layers]
    kl, recall = torch.stack(found).sum((2, 3)).div(counts.unsqueeze(1)).unbind(1)
    return kl.sum(), recall.mean()
