"""p ∝ softmax(logits / temperature), cut to the top-k, then top-p, then min-p, renormalised.

All rows of a batch at once, each with settings and random numbers of its own, so that a row's draw
does not depend on its neighbours. Every cut keeps the n likeliest tokens, equal ones by lower id:
one n for each row says all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsv4.protocol.stop import stop_strings

LIKELIEST = 256  # sorted at first: a nucleus is seldom larger


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

    @property
    def cuts(self) -> bool:
        """Some tokens cannot come."""
        return self.greedy or self.top_k > 0 or self.top_p < 1 or self.min_p > 0

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
    if all(row.greedy for row in settings):
        _check_finite(logits)
        return logits.argmax(-1).tolist()
    uniforms = [generator.random() for generator in generators]
    return draw(probabilities(logits, settings), uniforms).tolist()


def probabilities(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """What the token of each row is drawn from: logits [b, vocab] → float64 [b, vocab].

    Raises ValueError for logits that are not finite, at any temperature.
    """
    _check_finite(logits)
    return distribution(logits, settings)


def distribution(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """`probabilities`, unchecked: −∞ marks a token that may not come; one at least may."""
    x = logits.double()
    highest = x.amax(-1, keepdim=True)  # [b, 1]
    lowest = sys.float_info.min  # temperatures below it have the same limit
    temperature = _column([1.0 if s.greedy else max(s.temperature, lowest) for s in settings], x)
    weights = ((x - highest) / temperature).exp()  # the likeliest token weighs 1
    if any(row.cuts for row in settings):
        weights = weights * _kept(x, temperature, weights.cumsum(-1)[:, -1:], settings)
    return weights / weights.cumsum(-1)[:, -1:]  # cumsum adds in one order in any batch


def finite(logits: Tensor) -> Tensor:
    """Which rows of [b, vocab] hold numbers only: bool [b]."""
    lowest, highest = logits.amin(-1), logits.amax(-1)  # NaN prevails; many times aminmax's speed
    return lowest.isfinite() & highest.isfinite()


def not_finite(row: Tensor) -> ValueError:
    """What to say of logits [vocab] that are not finite."""
    token = int((~row.isfinite()).nonzero()[0])
    return ValueError(
        f"the logits are not finite ({row[token].item()} for token {token}): the "
        "weights are damaged, or the computation overflowed"
    )


def first_largest(x: Tensor, least: Tensor, count: Tensor | int) -> Tensor:
    """The `count` [b, 1] largest of each row, of which `least` [b, 1] is the smallest, equal ones
    by lower index: bool [b, n]."""
    above, equal = x > least, x == least
    room = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def draw(probs: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Ids [b] from probs [b, vocab] and one number of [0, 1) a row, by the inverse of the sums."""
    sums = probs.cumsum(-1)
    whole = sums[:, -1:]
    aims = _column(uniforms, probs) * whole
    found = torch.searchsorted(sums, aims, right=True)  # the first token whose sum is above the aim
    last = torch.searchsorted(sums, whole.contiguous())  # rounding must not lead past it
    return torch.minimum(found, last).squeeze(-1)


def _kept(x: Tensor, temperature: Tensor, mass: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Which tokens stay: the `count` likeliest of each row, equal ones by lower id. [b, vocab]"""
    best, count = _likeliest(x, temperature, mass, settings)
    whole = _column([not s.cuts for s in settings], x).bool()
    least = best.gather(-1, count - 1).masked_fill(whole, -torch.inf)  # [b, 1]
    return first_largest(x, least, count)


def _likeliest(
    x: Tensor, temperature: Tensor, mass: Tensor, settings: Sequence[Sampling]
) -> tuple[Tensor, Tensor]:
    """The highest logits of each row, falling [b, many], and how many of them stay [b, 1]."""
    vocab = x.shape[-1]
    ks = [1 if s.greedy else min(s.top_k or vocab, vocab) for s in settings]
    k = _column(ks, x)
    top_p = _column([s.top_p if s.top_p < 1 else float("inf") for s in settings], x)
    min_p = _column([s.min_p for s in settings], x)
    whole = _column([not s.cuts for s in settings], x).bool()
    many = max([LIKELIEST, *(k + 1 for k in ks if k < vocab)])
    while True:
        many = min(many, vocab)
        best = x.topk(many).values
        ranks = torch.arange(many, device=x.device)
        weights = ((best - best[:, :1]) / temperature).exp() * (ranks < k)
        sums = weights.cumsum(-1)
        of_all = torch.where(k < vocab, sums[:, -1:], mass)  # top-p is a share of the top-k
        stays = (ranks < k) & (sums - weights < top_p * of_all) & (weights >= min_p)
        count = stays.sum(-1, keepdim=True).clamp(min=1)  # the likeliest always stays
        if many == vocab or bool(((count < many) | whole).all()):
            return best, count
        many *= 8


def _check_finite(logits: Tensor) -> None:
    """Raises ValueError if any logit is NaN or infinite."""
    good = finite(logits)
    if not bool(good.all()):
        raise not_finite(logits[int((~good).nonzero()[0])])


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)


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
