"""Learning rate: linear warm-up, constant, cosine at the end; MTP weight 0.3, 0.1 in the decay."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """`warmup` and `steps` in optimizer steps; the last `decay` share of them follows a cosine."""

    peak: float
    steps: int
    warmup: int
    decay: float = 0.4
    floor: float = 0.1  # of the peak, at the end

    @property
    def decay_begins(self) -> int:
        """The first step whose learning rate falls."""
        return self.steps - round(self.decay * self.steps)

    def lr(self, step: int) -> float:
        """Learning rate of step 0, 1, …"""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if step < self.decay_begins:
            return self.peak
        through = (step - self.decay_begins) / max(1, self.steps - self.decay_begins)
        cosine = 0.5 * (1 + math.cos(math.pi * min(through, 1.0)))
        return self.peak * (self.floor + (1 - self.floor) * cosine)

    def mtp_weight(self, step: int) -> float:
        """Weight of the MTP loss."""
        return 0.3 if step < self.decay_begins else 0.1
