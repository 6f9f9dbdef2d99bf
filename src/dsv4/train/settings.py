"""What a training run is told: sizes, rates, when to evaluate and save. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """One run. With `steps` 0 their number is chosen so that training takes about `minutes`."""

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
        for name in ("batch", "seq_len", "lr", "warmup", "clip", "evaluate_every", "save_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be positive")
        if self.steps <= 0 and self.minutes <= 0:
            raise ValueError("give steps or minutes: both are 0, so there is nothing to do")
