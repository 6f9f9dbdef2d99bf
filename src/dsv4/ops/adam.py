"""One step of AdamW, in place.

m ← m + (1 − β₁)(g − m),  v ← β₂ v + (1 − β₂) g²
w ← (1 − ηλ) w − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dsv4.ops import native


class Rule(NamedTuple):
    """How far a step goes."""

    lr: float
    betas: tuple[float, float]
    eps: float
    decay: float


def step(
    weight: Tensor, slope: Tensor, mean: Tensor, square: Tensor, rule: Rule, number: int
) -> None:
    """Move a weight and its two moments, all of one shape; `number`: of the step, from 1 on. On a
    CPU a number's result is the same to the bit wherever it lies in a tensor."""
    first, second = rule.betas
    keep, rate = 1 - rule.lr * rule.decay, rule.lr / (1 - first**number)
    root = (1 - second**number) ** -0.5
    module = native.trainer(weight, slope, mean, square)
    if module is not None and weight.is_contiguous():
        module.adam(
            slope.contiguous(), weight, mean, square, keep, first, second, rate, root, rule.eps
        )
        return
    mean.lerp_(slope, 1 - first)
    square.mul_(second).addcmul_(slope, slope, value=1 - second)
    weight.mul_(keep).addcdiv_(mean, square.sqrt().mul_(root).add_(rule.eps), value=-rate)
