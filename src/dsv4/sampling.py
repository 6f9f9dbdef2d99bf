"""How tokens are drawn: settings, what they make of a row of logits, and draws of whole batches.

The arithmetic is `ops/draw.py`: each row has settings and random numbers of its own, so that its
draw does not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

from dsv4.ops import draw as ops
from dsv4.ops.draw import draw as draw
from dsv4.ops.draw import survey
from dsv4.protocol.stop import stop_strings


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the defaults are the release's recommendation.

    temperature 0 takes the most likely token. top_k 0, top_p 1 and min_p 0 cut nothing. `seed`: any
    integer; None draws differently each time. `stop` strings (one, or several) end the text and are
    not part of it. Raises ValueError for a value of another type or outside its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    max_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            self._set(name, _number(name, getattr(self, name)))
        for name in ("top_k", "max_tokens", "seed"):
            if name != "seed" or self.seed is not None:
                self._set(name, _integer(name, getattr(self, name)))
        self._set("stop", stop_strings(self.stop))
        rules = (
            ("temperature", 0 <= self.temperature < float("inf"), "must be finite, 0 or above"),
            ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "must not be negative (0 cuts nothing)"),
            ("min_p", 0 <= self.min_p <= 1, "must be between 0 and 1"),
            ("max_tokens", self.max_tokens >= 1, "must be at least 1"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: {rule}")

    @property
    def greedy(self) -> bool:
        """Only the most likely token can come."""
        return self.temperature == 0 or self.top_k == 1

    def generator(self, number: int = 0) -> np.random.Generator:
        """The random numbers of sequence `number`: another stream for every seed and number."""
        if self.seed is None:
            return np.random.Generator(np.random.PCG64())
        source = np.random.SeedSequence(abs(self.seed), spawn_key=(number, int(self.seed < 0)))
        return np.random.Generator(np.random.PCG64(source))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def sample(
    logits: Tensor, settings: Sequence[Sampling], generators: Sequence[np.random.Generator]
) -> list[int]:
    """One token id for each row of logits [b, vocab]. Raises as `probabilities`."""
    seen = survey(logits)
    _check_finite(logits, seen)
    if all(row.greedy for row in settings):
        return seen.best
    return drawn(logits, settings, [generator.random() for generator in generators]).tolist()


def probabilities(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """What the token of each row is drawn from: logits [b, vocab] → float64 [b, vocab].

    Raises ValueError for logits that are not finite, at any temperature.
    """
    _check_finite(logits, survey(logits))
    return ops.distribution(logits, _cuts(logits, settings))


def drawn(logits: Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """`draw` of the distribution, unchecked: ids [b]. −∞ marks a token that may not come; one at
    least may."""
    return ops.drawn(logits, _cuts(logits, settings), uniforms)


def not_finite(row: Tensor) -> ValueError:
    """What to say of logits [vocab] that are not finite."""
    token = int((~row.isfinite()).nonzero()[0])
    return ValueError(
        f"the logits are not finite ({row[token].item()} for token {token}): the "
        "weights are damaged, or the computation overflowed"
    )


def _cuts(logits: Tensor, settings: Sequence[Sampling]) -> ops.Cuts:
    vocab = logits.shape[-1]
    return ops.Cuts(
        [1.0 if s.greedy else max(s.temperature, ops.LOWEST) for s in settings],
        [1 if s.greedy else min(s.top_k or vocab, vocab) for s in settings],
        [s.top_p if s.top_p < 1 else math.inf for s in settings],
        [s.min_p for s in settings],
    )


def _check_finite(logits: Tensor, seen: ops.Surveyed) -> None:
    """Raises ValueError if any logit is NaN or infinite."""
    for row, fine in enumerate(seen.finite):
        if not fine:
            raise not_finite(logits[row])


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} = {value!r}: must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name}: too large a number") from error


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} = {value!r}: must be an integer")
    return int(value)
