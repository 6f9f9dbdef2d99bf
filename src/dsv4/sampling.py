"""p ∝ softmax(logits / temperature), cut to the top-k, then top-p, then min-p, renormalised.

All rows of a batch at once, each with settings and random numbers of its own, so that a row's draw
does not depend on its neighbours. Every cut keeps the n likeliest tokens, equal ones by lower id:
one n for each row says all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsv4.protocol.stop import stop_strings

LIKELIEST = 256  # sorted at first: a nucleus is seldom larger
LOWEST = sys.float_info.min  # temperatures below it have the same limit


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
    _check_finite(logits)
    if all(row.greedy for row in settings):
        return logits.argmax(-1).tolist()
    return drawn(logits, settings, [generator.random() for generator in generators]).tolist()


def probabilities(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """What the token of each row is drawn from: logits [b, vocab] → float64 [b, vocab].

    Raises ValueError for logits that are not finite, at any temperature.
    """
    _check_finite(logits)
    return distribution(logits, settings)


def distribution(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """`probabilities`, unchecked: −∞ marks a token that may not come; one at least may."""
    probs = logits.new_zeros(logits.shape, dtype=torch.float64)
    for rows, ids, some in _kinds(logits, settings):
        if ids is None:
            probs[rows] = some
        else:
            probs[rows] = probs[rows].scatter_add(-1, ids, some)  # padding adds nothing to id 0
    return probs


def drawn(logits: Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """`draw` of `distribution`: the same ids [b], without the tokens that cannot come."""
    chosen = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    for rows, ids, some in _kinds(logits, settings):
        places = draw(some, [uniforms[row] for row in rows])
        chosen[rows] = places if ids is None else ids.gather(-1, places.unsqueeze(-1)).squeeze(-1)
    return chosen


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


def _kinds(
    logits: Tensor, settings: Sequence[Sampling]
) -> Iterator[tuple[list[int], Tensor | None, Tensor]]:
    """Rows without a cut, then those with one: their numbers, the ids that may come [r, some] in
    rising order (None: all), and their probabilities float64 [r, some]; padding has none."""
    for cut in (False, True):
        rows = [row for row, setting in enumerate(settings) if setting.cuts is cut]
        if not rows:
            continue
        x, some = logits if len(rows) == len(logits) else logits[rows], [settings[r] for r in rows]
        ids, weights = _cut(x, some) if cut else (None, _weights(x, some))
        # cumsum adds in one order in any batch, and zeros between change nothing
        yield rows, ids, weights.div_(weights.cumsum(-1)[:, -1:])


def _weights(x: Tensor, settings: Sequence[Sampling], highest: Tensor | None = None) -> Tensor:
    """exp((x − max x) / temperature) in float64: the likeliest token weighs 1."""
    weights = x.to(torch.float64, copy=True)
    weights -= weights.amax(-1, keepdim=True) if highest is None else highest
    temperatures = [1.0 if s.greedy else max(s.temperature, LOWEST) for s in settings]
    if any(t != 1 for t in temperatures):
        weights /= _column(temperatures, weights)
    return weights.exp_()


def _cut(logits: Tensor, settings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """The `count` likeliest of each row, equal ones by lower id: ids rising [b, some], weights."""
    best, count = _likeliest(logits, settings)
    least = best.gather(-1, count - 1).to(logits.dtype)  # [b, 1]
    row, token = (logits >= least).nonzero(as_tuple=True)
    sizes = row.bincount(minlength=len(logits))  # more than `count` where some equal the least
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]
    ids = token.new_zeros(len(logits), int(sizes.max()))
    ids[row, place] = token
    x = logits.new_full(ids.shape, -torch.inf)
    x[row, place] = logits[row, token]
    weights = _weights(x, settings, best[:, :1])
    return ids, weights * first_largest(x, least, count)


def _likeliest(logits: Tensor, settings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """The highest logits of each row, falling, float64 [b, many], and how many stay [b, 1]."""
    vocab = logits.shape[-1]
    ks = [1 if s.greedy else min(s.top_k or vocab, vocab) for s in settings]
    many = max([LIKELIEST, *(k + 1 for k in ks if k < vocab)])
    mass = None  # of all tokens, where top-p is a share of that
    if any(s.top_p < 1 and k == vocab for s, k in zip(settings, ks, strict=True)):
        mass = _weights(logits, settings).cumsum(-1)[:, -1:]
    while True:
        many = min(many, vocab)
        best = _largest(logits, many).double()
        k = _column(ks, best)
        top_p = _column([s.top_p if s.top_p < 1 else float("inf") for s in settings], best)
        min_p = _column([s.min_p for s in settings], best)
        ranks = torch.arange(many, device=best.device)
        weights = _weights(best, settings) * (ranks < k)
        sums = weights.cumsum(-1)
        of_all = sums[:, -1:]  # top-p is a share of the top-k
        if mass is not None:
            of_all = torch.where(k < vocab, of_all, mass)
        stays = (ranks < k) & (sums - weights < top_p * of_all) & (weights >= min_p)
        count = stays.sum(-1, keepdim=True).clamp(min=1)  # the likeliest always stays
        if many == vocab or bool((count < many).all()):
            return best, count
        many *= 8


def _largest(x: Tensor, many: int) -> Tensor:
    """The `many` largest of each row, falling: [b, many]."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return x.topk(many).values
    values = x.detach().numpy()  # whose partition is ten times as fast as topk
    values = np.partition(values, x.shape[-1] - many, axis=-1)[:, x.shape[-1] - many :]
    return torch.from_numpy(np.sort(values, axis=-1)[:, ::-1].copy())


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
