"""Loss spikes: loss > median + max(threshold · 1.4826 · MAD, rise · median), several times running.

Median and median absolute deviation are of the last `window` losses that were no spikes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from dsv4.train.recipe import Stability

TO_DEVIATION = 1.4826  # of a normal distribution: its standard deviation / its MAD


class SpikeDetector:
    """Looks at one loss after another."""

    def __init__(self, how: Stability):
        self.how = how
        self.losses: deque[float] = deque(maxlen=how.window)
        self.running = 0  # spikes in a row

    @property
    def bound(self) -> float:
        """The loss above which one is a spike; infinity before the window is full."""
        if not self.how.window or len(self.losses) < self.how.window:
            return float("inf")
        middle = median(self.losses)
        deviation = TO_DEVIATION * median(abs(loss - middle) for loss in self.losses)
        return middle + max(self.how.threshold * deviation, self.how.rise * abs(middle))

    def observe(self, loss: float) -> bool:
        """Take the loss of a step; whether it is time to go back."""
        if loss <= self.bound:
            self.losses.append(loss)
            self.running = 0
            return False
        self.running += 1
        return self.running >= self.how.patience

    def state_dict(self) -> dict[str, Any]:
        """What it has seen."""
        return {"losses": list(self.losses), "running": self.running}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.losses = deque(state["losses"], maxlen=self.how.window)
        self.running = state["running"]
