"""The loss of a DSpark draft, whose target, embedding and output head are frozen.

From random anchors p the draft predicts the tokens p + 1 … p + B, its context being the tokens
strictly before p, the Markov head reading the true previous tokens. Per row k = 0 … B − 1:

    L_k = 0.1 · CE(Q_k, x_{p+k+1}) + 0.9 · Σ_v |Q_k − P_k| + 1.0 · BCE(c_k, 1 − ½ Σ_v |Q_k − P_k|)
    L = Σ w_k L_k / (Σ w_k + 1e-6),  w_k = exp(−k / γ), 0 from the first label that is none on

P_k is the target's distribution at position p + k. The label of BCE carries no gradient.
Source: DSpark paper, training objective, and DeepSpec.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.model.cache import LayerState, SequenceState
from dsv4.model.draft import block_streams, stages_of
from dsv4.model.span import BlockSpan, Span
from dsv4.model.transformer import Transformer
from dsv4.train.data import IGNORE

CE, L1, BCE = 0.1, 0.9, 1.0
GAMMA = 4.0
EPS = 1e-6


class _Gathered:
    """Context entries of each anchor, with their gradient, in the place of a cache's layer."""

    def __init__(self, rows: Tensor, anchors: Tensor):
        self.rows, self.anchors = rows, anchors  # [b, n, width], [b, a]
        self.window = self

    def extend(self, span: Span, new: Tensor, count: int) -> Tensor:
        """The `count` rows before each anchor, then those of its block, new [b · a, B, width]:
        [b · a, count + B, width]; junk before position 0. Rows of a block are never stored."""
        back = torch.arange(-count, 0, device=self.rows.device)
        place = (self.anchors.unsqueeze(-1) + back).clamp(min=0)  # [b, a, count]
        sequence = torch.arange(len(self.rows), device=self.rows.device).view(-1, 1, 1)
        return torch.cat((self.rows[sequence, place].flatten(0, 1), new), dim=1)


def freeze_all_but_draft(model: Transformer) -> None:
    """Leave gradients to the draft alone."""
    model.requires_grad_(False)
    model.mtp.requires_grad_(True)


def random_anchors(batch: int, n: int, count: int, generator: torch.Generator) -> Tensor:
    """Positions with a token before them and one after: int64 [batch, count], 1 … n − 2."""
    return torch.randint(1, n - 1, (batch, count), generator=generator)


def draft_loss(model: Transformer, ids: Tensor, targets: Tensor, anchors: Tensor) -> Tensor:
    """ids int64 [b, n]; targets int64 [b, n], the next tokens or −100; anchors int64 [b, a] → a
    float32 scalar. The model's weights are floats, its draft DSpark's.
    """
    config, stages = model.config, stages_of(model)
    (b, n), block = ids.shape, config.dspark_block_size or 0
    with torch.no_grad():
        streams, means = model.streams_and_targets(ids)
        assert means is not None
    sequence = torch.arange(b, device=ids.device).view(-1, 1, 1)
    place = anchors.unsqueeze(-1) + torch.arange(block, device=ids.device)  # [b, a, B]
    inside = place.clamp(max=n - 1)
    labels = torch.where(place < n, targets[sequence, inside], IGNORE).flatten(0, 1)

    whole = Span([0] * b, n, [n] * b, config.sliding_window, ids.device, [])
    x = stages[0].main_x(means, whole)
    context = [_Gathered(stage.attn.window_rows(x, whole), anchors) for stage in stages]
    places = [SequenceState(0)] * anchors.numel()
    starts = anchors.flatten().tolist()
    span = BlockSpan(starts, block, config.sliding_window, ids.device, places)
    first = ids.gather(1, anchors).flatten()
    last, states = stages[-1], cast("list[LayerState]", context)
    hidden = last.fold(block_streams(model, first, span, states))  # [b · a, B, d]
    row = last.markov_head.row(ids[sequence, inside].flatten(0, 1))  # [b · a, B, R]
    logits = model.head(last.norm(hidden)) + last.markov_head(row)
    with torch.no_grad():
        p = model.logits(streams[sequence, inside].flatten(0, 1)).softmax(-1)
    return objective(logits, last.confidence_head(hidden, row), p, labels)


def objective(logits: Tensor, confidence: Tensor, p: Tensor, labels: Tensor) -> Tensor:
    """logits [r, B, V] of the draft, confidence [r, B], p [r, B, V] of the target, labels int64
    [r, B] (−100: none) → the weighted mean of the three terms, a float32 scalar.
    """
    real = (labels != IGNORE).long().cumprod(-1)
    k = torch.arange(labels.shape[1], device=labels.device)
    weight = real * torch.exp(-k / GAMMA)  # [r, B]
    ce = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    distance = (logits.softmax(-1) - p).abs().sum(-1)
    accepted = (1 - distance / 2).detach()
    bce = F.binary_cross_entropy_with_logits(confidence, accepted, reduction="none")
    rows = CE * ce + L1 * distance + BCE * bce
    return (weight * rows).sum() / (weight.sum() + EPS)
