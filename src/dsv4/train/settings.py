"""What a training run is told: sizes, rates, when to evaluate and save. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dsv4.config import Config

COUNTS = {  # smallest and largest of each whole number
    "steps": (0, 10**12),
    "batch": (1, 10**9),
    "seq_len": (1, 10**9),
    "warmup": (1, 10**12),
    "seed": (0, 2**63 - 1),
    "evaluate_every": (1, 10**12),
    "save_every": (1, 10**12),
}
NUMBERS = {  # the same of other numbers, and whether the smallest is one of them
    "minutes": (0, 10**7, True),
    "lr": (0, 1, False),
    "decay": (0, 1, True),
    "weight_decay": (0, 10, True),
    "clip": (0, 10**9, False),
}


@dataclass(frozen=True)
class Settings:
    """One run. With `steps` 0 their number is chosen so that training takes about `minutes`.

    Raises: ValueError naming field, value and range.
    """

    steps: int = 0
    minutes: float = 30.0
    batch: int = 8
    seq_len: int = 256
    lr: float = 1e-2
    warmup: int = 40
    decay: float = 0.5
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    evaluate_every: int = 200
    save_every: int = 100

    def __post_init__(self) -> None:
        for name, (low, high) in COUNTS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} = {value!r}: must be a whole number, {low} to {high}")
        for name, (low, high, closed) in NUMBERS.items():
            value = getattr(self, name)
            real = type(value) in (int, float) and math.isfinite(value)
            if not real or not low <= value <= high or (value == low and not closed):
                above = f"from {low}" if closed else f"above {low}"
                raise ValueError(f"{name} = {value!r}: must be a number {above} to {high:,}")
        if not self.steps and not self.minutes:
            raise ValueError("give steps or minutes: both are 0, so there is nothing to do")

    def check(self, config: Config) -> None:
        """Raises ValueError for rows that a model of `config` cannot be trained on."""
        if self.seq_len > config.max_position_embeddings:
            raise ValueError(
                f"seq_len = {self.seq_len}: this model's context ends at "
                f"{config.max_position_embeddings} tokens"
            )
        shortest = min(_ratios(config), default=1)
        if self.seq_len < shortest:
            raise ValueError(
                f"seq_len = {self.seq_len}: must be at least {shortest}, or no row holds one block "
                "for the compressed layers to see"
            )

    def untrained(self, config: Config) -> list[int]:
        """The compress ratios whose blocks no row of `seq_len` tokens closes: these compressors
        keep their initial weights."""
        return [ratio for ratio in _ratios(config) if ratio > self.seq_len]


def _ratios(config: Config) -> list[int]:
    return sorted({ratio for ratio in config.compress_ratios if ratio})
