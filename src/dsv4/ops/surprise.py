"""Surprise of the right words, Σ_t log Σ_v e^(l_tv) − l_t,gold; its slope in place of the logits.

dl_tv = (softmax(l_t)_v − [v = gold]) · factor;  a target below 0 counts for nothing
"""

from __future__ import annotations

from torch import Tensor

from dsv4.ops import native


def surprise(logits: Tensor, targets: Tensor, factor: Tensor | None) -> Tensor:
    """logits float32 [rows, words], targets int64 [rows] → float32 scalar. With a `factor` (a
    scalar) the logits become their slopes; else their values are lost.
    """
    module = native.trainer(logits)
    if module is not None:
        losses = logits.new_empty(logits.shape[0])
        scale = 0.0 if factor is None else float(factor)
        module.surprise(logits, targets.contiguous(), scale, losses)
        return losses.sum()
    real, gold = targets >= 0, targets.clamp(min=0).unsqueeze(1)
    norm = logits.logsumexp(1, keepdim=True)
    total = ((norm - logits.gather(1, gold)).squeeze(1) * real).sum()
    if factor is not None:
        slope = logits.sub_(norm).exp_()
        slope.scatter_add_(1, gold, slope.new_full(gold.shape, -1.0))
        slope.mul_(real.unsqueeze(1) * factor)
    return total
