"""What each setting of a recipe may be. Errors name field, value and range."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

WHOLE = {  # smallest and largest of each whole number
    "stages.tokens": (1, 10**16),
    "stages.seq_len": (1, 10**9),
    "stages.least": (0, 10**9),
    "stages.batch_tokens": (1, 10**12),
    "tokens": (1, 10**16),
    "warmup": (1, 10**12),
    "ramp_from": (0, 10**12),
    "ramp_tokens": (0, 10**16),
    "micro_tokens": (0, 10**12),
    "seed": (0, 2**63 - 1),
    "evaluate_every": (1, 10**12),
    "evaluate_tokens": (1, 10**12),
    "save_every": (1, 10**12),
    "keep": (1, 10**6),
    "stability.most_skipped": (0, 10**9),
    "stability.window": (0, 10**6),
    "stability.patience": (1, 10**6),
    "stability.margin": (0, 10**6),
    "stability.most_rollbacks": (0, 10**6),
    "stability.delay": (1, 10**4),
    "stability.anticipate": (0, 10**9),
}
NUMBERS = {  # the same of other numbers, and whether the smallest is one of them
    "stages.lr": (0, 1, False),
    "text.weight": (0, 10**9, False),
    "text.epochs": (0, 10**9, False),
    "minutes": (0, 10**7, False),
    "lr": (0, 1, False),
    "floor": (0, 1, True),
    "decay": (0, 1, True),
    "weight_decay": (0, 10, True),
    "clip": (0, 10**9, False),
    "mtp_weight": (0, 100, True),
    "mtp_weight_at_end": (0, 100, True),
    "balance": (0, 100, True),
    "bias_step": (0, 1, True),
    "stability.threshold": (0, 10**6, False),
    "stability.rise": (0, 10**6, True),
}
ONE_OF = {
    "stages.attention": ("dense", "indexer", "sparse"),
    "optimizer": ("muon", "adamw"),
    "precision": ("float32", "bfloat16", "fp8", "fp4"),
    "sinks": ("trackio", "tensorboard", "wandb"),
    "stability.on_bad_batch": ("stop", "skip"),
}
OPTIONAL = ("tokens", "minutes", "stages.lr", "text.weight", "text.epochs")


def check_fields(own: Any, prefix: str) -> None:
    """Raises ValueError for a field of `own`, whose names here begin with `prefix`, that is out of
    its range."""
    for name, value in vars(own).items():
        full = prefix + name
        if value is None and full in OPTIONAL:
            continue
        if full in WHOLE:
            low, high = WHOLE[full]
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} = {value!r}: must be a whole number, {low} to {high}")
        elif full in NUMBERS:
            _check_number(name, value, *NUMBERS[full])
        elif full in ONE_OF:
            for each in value if isinstance(value, tuple) else (value,):
                if each not in ONE_OF[full]:
                    raise ValueError(f"{name} = {each!r}: must be {' or '.join(ONE_OF[full])}")


def _check_number(name: str, value: Any, low: float, high: float, closed: bool) -> None:
    real = type(value) in (int, float) and math.isfinite(value)
    if not real or not low <= value <= high or (value == low and not closed):
        above = f"from {low}" if closed else f"above {low}"
        raise ValueError(f"{name} = {value!r}: must be a number {above} to {high:,}")


def close(word: str, known: Iterable[str], least: float = 0.5) -> str | None:
    """The one of the `known` that is most like a word, if one is."""
    by_case = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), list(by_case), n=1, cutoff=least)
    return by_case[found[0]] if found else None


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`: did you mean lr?`, or nothing where nothing is near."""
    found = close(word, known)
    return f": did you mean {prefix}{found}?" if found else ""
