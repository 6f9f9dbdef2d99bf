"""p ∝ e^((x − max x) / temperature), cut to the top-k, then top-p, then min-p, renormalised; and
the first token whose running sum is above a random number.

All rows of a batch at once, each with cuts and a random number of its own, so that a row's draw
does not depend on its neighbours. Every cut keeps the n likeliest tokens, equal ones by lower id:
one n for each row says all of them. −∞ marks a token that may not come; one at least may.

The native twin (csrc/draw.cpp) adds in the same order and leaves the exponential to the same
function: it picks the same token.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from math import inf, isfinite
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsv4.ops import native

NUCLEUS = 256  # sorted at first: one is seldom larger; csrc/draw.cpp has the same
LOWEST = sys.float_info.min  # temperatures below it have the same limit
TOGETHER = 1 << 15  # float64 weights: they stay in a processor's own cache


class Cuts(NamedTuple):
    """Of each row: its temperature, how many of the likeliest may come (top-k; as many as there
    are: all), the share of these that stays (top-p; ∞: all), and the least weight that stays, where
    the likeliest weighs 1 (min-p; 0: all)."""

    temperatures: Sequence[float]
    counts: Sequence[int]
    top_p: Sequence[float]
    min_p: Sequence[float]

    def of(self, rows: Sequence[int]) -> Cuts:
        """Those of some rows."""
        return Cuts(
            [self.temperatures[row] for row in rows],
            [self.counts[row] for row in rows],
            [self.top_p[row] for row in rows],
            [self.min_p[row] for row in rows],
        )


class Surveyed(NamedTuple):
    """Of each row the lowest and the highest logit, both NaN if one is; where the highest stands
    first, if none is."""

    lowest: list[float]
    highest: list[float]
    best: list[int]

    @property
    def finite(self) -> list[bool]:
        """Whether a row holds numbers only."""
        return [isfinite(a) and isfinite(b) for a, b in zip(self.lowest, self.highest, strict=True)]


def survey(logits: Tensor) -> Surveyed:
    """logits [b, vocab] → what there is to see in one pass."""
    module = _native(logits)
    if module is None:
        lowest, highest = logits.amin(-1), logits.amax(-1)  # many times aminmax's speed
        return Surveyed(lowest.tolist(), highest.tolist(), logits.argmax(-1).tolist())
    rows = len(logits)
    low, high, best = (
        np.empty(rows, np.float32),
        np.empty(rows, np.float32),
        np.empty(rows, np.int64),
    )
    module.survey(_array(logits), low, high, best)
    return Surveyed(low.tolist(), high.tolist(), best.tolist())


def drawn(logits: Tensor, cuts: Cuts, uniforms: Sequence[float]) -> Tensor:
    """`draw` of `distribution`: the same ids [b], without the tokens that cannot come."""
    module = _native(logits)
    if module is not None:
        return _drawn_natively(module, logits, cuts, uniforms)
    chosen = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    for rows, ids, some in _kinds(logits, cuts):
        places = draw(some, [uniforms[row] for row in rows])
        chosen[rows] = places if ids is None else ids.gather(-1, places.unsqueeze(-1)).squeeze(-1)
    return chosen


def distribution(logits: Tensor, cuts: Cuts) -> Tensor:
    """What the token of each row is drawn from: logits [b, vocab] → float64 [b, vocab]."""
    probs = logits.new_zeros(logits.shape, dtype=torch.float64)
    for rows, ids, some in _kinds(logits, cuts):
        if ids is None:
            probs[rows] = some
        else:
            probs[rows] = probs[rows].scatter_add(-1, ids, some)  # padding adds nothing to id 0
    return probs


def draw(probs: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Ids [b] from probs [b, vocab] and one number of [0, 1) a row, by the inverse of the sums."""
    sums = probs.cumsum(-1)
    whole = sums[:, -1:]
    aims = _column(uniforms, probs) * whole
    found = torch.searchsorted(sums, aims, right=True)  # the first token whose sum is above the aim
    last = torch.searchsorted(sums, whole.contiguous())  # rounding must not lead past it
    return torch.minimum(found, last).squeeze(-1)


def first_largest(x: Tensor, least: Tensor, count: Tensor | int) -> Tensor:
    """The `count` [b, 1] largest of each row, of which `least` [b, 1] is the smallest, equal ones
    by lower index: bool [b, n]."""
    above, equal = x > least, x == least
    room = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


# ---- the native twin -----------------------------------------------------------------------------


def _native(logits: Tensor) -> ModuleType | None:
    """The module, if it takes these logits."""
    if logits.dtype is not torch.float32 or logits.device.type != "cpu":
        return None
    found = native.module()
    if found is not None:
        native.use_threads(found)
    return found


def _drawn_natively(
    module: ModuleType, logits: Tensor, cuts: Cuts, uniforms: Sequence[float]
) -> Tensor:
    x = _array(logits)
    counts = np.array(cuts.counts, np.int64)
    temperatures, top_p, min_p, numbers = (
        np.array(values, np.float64)
        for values in (cuts.temperatures, cuts.top_p, cuts.min_p, uniforms)
    )
    chosen = np.empty(len(x), np.int64)
    for rows in _groups(cuts.counts):
        size = sum(cuts.counts[rows])
        kept = x[rows], counts[rows], np.empty(size, np.int32), np.empty(size)
        module.weigh(*kept, temperatures[rows])
        np.exp(kept[-1], out=kept[-1])
        module.pick(*kept, top_p[rows], min_p[rows], numbers[rows], chosen[rows])
    return torch.from_numpy(chosen)


def _groups(counts: Sequence[int]) -> Iterator[slice]:
    """Neighbours of about TOGETHER weights."""
    first = size = 0
    for row, count in enumerate(counts):
        if row > first and size + count > TOGETHER:
            yield slice(first, row)
            first, size = row, 0
        size += count
    yield slice(first, len(counts))


def _array(logits: Tensor) -> np.ndarray:
    return logits.detach().contiguous().numpy()


# ---- the plain operator --------------------------------------------------------------------------


def _kinds(logits: Tensor, cuts: Cuts) -> Iterator[tuple[list[int], Tensor | None, Tensor]]:
    """Rows without a cut, then those with one: their numbers, the ids that may come [r, some] in
    rising order (None: all), and their probabilities float64 [r, some]; padding has none."""
    vocab = logits.shape[-1]
    cut = [k < vocab or p < inf or m > 0 for _, k, p, m in zip(*cuts, strict=True)]
    for wanted in (False, True):
        rows = [row for row, cuts_it in enumerate(cut) if cuts_it is wanted]
        if not rows:
            continue
        x, some = logits if len(rows) == len(logits) else logits[rows], cuts.of(rows)
        ids, weights = _cut(x, some) if wanted else (None, _weights(x, some))
        # cumsum adds in one order in any batch, and zeros between change nothing
        yield rows, ids, weights.div_(weights.cumsum(-1)[:, -1:])


def _weights(x: Tensor, cuts: Cuts, highest: Tensor | None = None) -> Tensor:
    """e^((x − max x) / temperature) in float64: the likeliest token weighs 1."""
    weights = x.to(torch.float64, copy=True)
    weights -= weights.amax(-1, keepdim=True) if highest is None else highest
    if any(t != 1 for t in cuts.temperatures):
        weights /= _column(cuts.temperatures, weights)
    if weights.device.type != "cpu":
        return weights.exp_()
    array = weights.detach().numpy()  # whose exponential is twice as fast, and the native twin's
    np.exp(array, out=array)
    return weights


def _cut(logits: Tensor, cuts: Cuts) -> tuple[Tensor, Tensor]:
    """The `count` likeliest of each row, equal ones by lower id: ids rising [b, some], weights."""
    best, count = _likeliest(logits, cuts)
    least = best.gather(-1, count - 1).to(logits.dtype)  # [b, 1]
    row, token = (logits >= least).nonzero(as_tuple=True)
    sizes = row.bincount(minlength=len(logits))  # more than `count` where some equal the least
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]
    ids = token.new_zeros(len(logits), int(sizes.max()))
    ids[row, place] = token
    x = logits.new_full(ids.shape, -torch.inf)
    x[row, place] = logits[row, token]
    weights = _weights(x, cuts, best[:, :1])
    return ids, weights * first_largest(x, least, count)


def _likeliest(logits: Tensor, cuts: Cuts) -> tuple[Tensor, Tensor]:
    """The highest logits of each row, falling, float64 [b, many], and how many stay [b, 1]."""
    vocab = logits.shape[-1]
    many = max([NUCLEUS, *(k + 1 for k in cuts.counts if k < vocab)])
    mass = None  # of all tokens, where top-p is a share of that
    if any(p < inf and k == vocab for _, k, p, _ in zip(*cuts, strict=True)):
        mass = _weights(logits, cuts).cumsum(-1)[:, -1:]
    while True:
        many = min(many, vocab)
        best = _largest(logits, many).double()
        k, top_p, min_p = (_column(values, best) for values in cuts[1:])
        ranks = torch.arange(many, device=best.device)
        weights = _weights(best, cuts) * (ranks < k)
        sums = weights.cumsum(-1)
        of_all = sums[:, -1:]  # top-p is a share of the top-k
        if mass is not None:
            of_all = torch.where(k < vocab, of_all, mass)
        before = torch.cat((torch.zeros_like(of_all), sums[:, :-1]), dim=-1)
        stays = (ranks < k) & (before < top_p * of_all) & (weights >= min_p)
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


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)
