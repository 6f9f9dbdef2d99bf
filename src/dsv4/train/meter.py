"""Of a step's row what is measured: rate, share of the peak, expert load, memory, time left."""

from __future__ import annotations

import resource
import sys
from collections import deque

import torch
from torch import Tensor

from dsv4.config import Config
from dsv4.train.flops import flops_per_token, peak_flops
from dsv4.train.schedule import Plan, Position, Step

SMOOTHED = 20  # steps, of which the median tells the time left


class Meter:
    """Measures the steps of one run."""

    def __init__(self, config: Config, plan: Plan, processes: int = 1):
        self.config, self.plan, self.processes = config, plan, processes
        whole = plan.recipe.precision == "float32"
        self.dtype = torch.float32 if whole else torch.bfloat16  # of the products
        self._each: deque[float] = deque(maxlen=SMOOTHED)  # seconds a token

    def measure(self, at: Position, how: Step, seconds: float, loads: Tensor) -> dict[str, float]:
        """The part of a row that is measured; `at` is the position after the step."""
        rate = how.tokens / seconds
        self._each.append(1 / rate)
        each = sorted(self._each)[len(self._each) // 2]
        flops = flops_per_token(self.config, how.stage.seq_len, dense=how.dense)
        row = {
            "tokens_per_s": rate,
            "mfu": flops * rate / (self.processes * peak_flops(self.dtype)),
            "memory": float(peak_memory()),
            "seconds_left": (self.plan.tokens - at.tokens) * each,
        }
        if loads.numel():
            row["expert_load"] = float((loads.amax(1) / loads.mean(1).clamp(min=1e-9)).max())
        return row


def peak_memory() -> int:
    """The most bytes that this process has had."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used << 10
