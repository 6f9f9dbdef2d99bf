"""The next token of every row of a batch, in one pass.

    logits → penalties → bias → grammar → temperature, top-k, top-p, min-p → token number k
             drawn by random number k of its job

So what a job says depends on its logits and its own settings alone: not on its neighbours, and not
on how many of its tokens were drafted, thrown away, or computed twice. Drafts are verified by
choosing: rows of one job follow each other as if each draft had come true, and count up to the
first that did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from dsv4.engine.constraint import Constraint, apply_words, mask_all, word_count
from dsv4.engine.penalties import Penalties
from dsv4.engine.request import GrammarError, Job, Token
from dsv4.ops.draw import Surveyed, first_largest, survey
from dsv4.sampling import drawn, not_finite


class Row:
    """What the sampler keeps of one job. `sampled`: the ids that were chosen so far, those that
    the job brings along (`said`) among them."""

    def __init__(self, job: Job, constraint: Constraint | None = None):
        self.job, self.constraint = job, constraint
        self.penalties = Penalties.of(job)
        self.sampled: list[int] = []
        self._ends = frozenset(job.end_ids or ())
        self._generator: np.random.Generator | None = None
        self._uniforms: list[float] = []
        for token in job.ids[len(job.ids) - job.said :]:
            self.push(token)

    @property
    def plain(self) -> bool:
        """Its logits are drawn from as they are."""
        return self.constraint is None and self.penalties is None

    def uniform(self, k: int) -> float:
        """Random number k of this job, in [0, 1): always the same."""
        if self._generator is None:
            self._generator = self.job.sampling.generator(self.job.number)
        missing = k + 1 - len(self._uniforms)
        if missing > 0:
            self._uniforms.extend(self._generator.random(missing).tolist())
        return self._uniforms[k]

    def push(self, token: int) -> None:
        """`token` was chosen."""
        self.sampled.append(token)
        if self.penalties is not None:
            self.penalties.add(token)
        if self.constraint is not None:
            self.constraint.accept(token)

    def over(self, token: int) -> bool:
        """`token` ends the reply, as far as the job says."""
        return token in self._ends or (self.constraint is not None and self.constraint.closed)


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Token | Exception]:
    """The next token of each row: logits [rows, vocab]. See `choose_runs`."""
    runs = choose_runs(logits, rows, [()] * len(rows))
    return [run if isinstance(run, Exception) else run[0] for run in runs]


def choose_runs(
    logits: Tensor, rows: Sequence[Row], drafts: Sequence[Sequence[int]]
) -> list[list[Token] | Exception]:
    """For each row the drafts that come true and the token after them; the row goes on by these.

    logits [Σ (drafts + 1), vocab]: those after a row's last token, then after each of its drafts. A
    run ends early with an end token (the job's, or its grammar's). An exception in a row's place
    (logits that are not finite, a grammar that lets nothing come) says that this job has failed;
    the others go on. Behind tokens that stand it is left to the next call to find it again.

    Log-probabilities are what OpenAI reports: log-softmax of the model's own logits, before
    penalties, grammar, temperature and cuts.
    """
    counts = [len(ids) + 1 for ids in drafts]
    firsts = list(accumulate(counts, initial=0))
    assert len(logits) == firsts[-1], "one row of logits for each token that may be chosen"
    seen = survey(logits)
    failed: dict[int, Exception] = {
        i: not_finite(logits[i]) for i, fine in enumerate(seen.finite) if not fine
    }
    x, alive, seen = _edited(logits, rows, drafts, firsts, failed, seen)
    numbers = [len(row.sampled) + k for row, n in zip(rows, counts, strict=True) for k in range(n)]
    owners = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
    chosen = _chosen(x, seen, owners, numbers, [i for i in alive if i not in failed])
    runs: list[list[int] | Exception] = []
    for row, ids, first in zip(rows, drafts, firsts, strict=False):
        tokens: list[int] = []
        for i, draft in enumerate([*ids, None], first):
            if i not in chosen:
                break
            tokens.append(chosen[i])
            row.push(chosen[i])
            if chosen[i] != draft or row.over(chosen[i]):
                break
        runs.append(tokens or failed[first])
    return _told(logits, rows, firsts, runs)


def told(logits: Tensor, ids: Sequence[int], tops: Sequence[int]) -> list[Token]:
    """Each id with its log-probability under its row of logits [n, vocab], and the `tops[i]`
    likeliest: falling, equal ones by lower id."""
    x = logits.double().log_softmax(-1)
    index = torch.tensor(ids, device=x.device).unsqueeze(-1)
    own = x.gather(-1, index).squeeze(-1).tolist()
    most = min(max(tops, default=0), x.shape[-1])
    if not most:
        return [Token(token, value) for token, value in zip(ids, own, strict=True)]
    least = x.topk(most).values[:, -1:]
    best = first_largest(x, least, most).nonzero()[:, 1].view(-1, most)  # rising
    values, order = x.gather(-1, best).sort(descending=True, stable=True)
    likeliest = zip(best.gather(-1, order).tolist(), values.tolist(), strict=True)
    return [
        Token(token, value, tuple(zip(names[:top], logprobs[:top], strict=True)))
        for token, value, top, (names, logprobs) in zip(ids, own, tops, likeliest, strict=True)
    ]


def _edited(
    logits: Tensor,
    rows: Sequence[Row],
    drafts: Sequence[Sequence[int]],
    firsts: Sequence[int],
    failed: dict[int, Exception],
    seen: Surveyed,
) -> tuple[Tensor, list[int], Surveyed]:
    """Logits with penalties, bias and grammar (−∞: may not come), which of them may count, and what
    there is to see then, as `seen` is of those without.

    Adds to `failed` what went wrong.
    """
    if all(row.plain for row in rows):
        return logits, list(range(len(logits))), seen
    x = logits.clone()
    words = torch.full((len(x), word_count(x.shape[-1])), -1, dtype=torch.int32)
    alive: list[int] = []
    held: list[int] = []  # to a grammar
    bound = [
        (row.constraint, first)
        for row, first in zip(rows, firsts, strict=False)
        if row.constraint is not None and first not in failed
    ]
    failed |= mask_all([one for one, _ in bound], [first for _, first in bound], words)
    for row, ids, first in zip(rows, drafts, firsts, strict=False):
        for i in _walk(row, ids, first, x, words, failed):
            alive.append(i)
            if row.constraint is not None:
                held.append(i)
    if held:
        apply_words(x, words, held)
    seen = survey(x)
    for i in alive:
        if i not in failed and not isfinite(seen.highest[i]):
            failed[i] = GrammarError("logit_bias and the grammar together let no token come")
    return x, alive, seen


def _walk(
    row: Row, drafts: Sequence[int], first: int, x: Tensor, words: Tensor, failed: dict
) -> list[int]:
    """Edit one job's rows of x and words, the first of which are there, as if its drafts came true;
    the rows that may count."""
    if row.plain:
        return list(range(first, first + len(drafts) + 1))
    alive: list[int] = []
    taken: list[int] = []
    for i, draft in enumerate([*drafts, None], first):
        alive.append(i)
        if i in failed:
            break
        try:
            if row.penalties is not None:
                row.penalties.apply(x[i])
            if row.constraint is not None and i > first:
                row.constraint.mask(words, i)
        except (ValueError, IndexError, RuntimeError) as error:
            failed[i] = error
            break
        if draft is None or not _take(row, draft, words[i]):
            break
        taken.append(draft)
        if row.over(draft):
            break
    if row.constraint is not None:
        row.constraint.rollback(len(taken))
    if row.penalties is not None:
        for draft in reversed(taken):
            row.penalties.remove(draft)
    return alive


def _take(row: Row, draft: int, words: Tensor) -> bool:
    """Go on as if `draft` had been chosen; False where the grammar would not let it."""
    if row.constraint is not None:
        if not int(words[draft // 32]) >> (draft % 32) & 1:
            return False
        row.constraint.accept(draft)
    if row.penalties is not None:
        row.penalties.add(draft)
    return True


def _chosen(
    x: Tensor, seen: Surveyed, owners: Sequence[Row], numbers: Sequence[int], alive: list[int]
) -> dict[int, int]:
    """Token `numbers[i]` of the job `owners[i]`, for each row i of x [n, vocab] that is alive."""
    chosen = {i: seen.best[i] for i in alive if owners[i].job.sampling.greedy}
    others = [i for i in alive if i not in chosen]
    if others:
        settings = [owners[i].job.sampling for i in others]
        uniforms = [owners[i].uniform(numbers[i]) for i in others]
        found = drawn(_rows(x, others), settings, uniforms).tolist()
        chosen.update(zip(others, found, strict=True))
    return chosen


def _rows(x: Tensor, numbers: list[int]) -> Tensor:
    return x if len(numbers) == len(x) else x[numbers]


def _told(
    logits: Tensor,
    rows: Sequence[Row],
    firsts: Sequence[int],
    runs: Sequence[list[int] | Exception],
) -> list[list[Token] | Exception]:
    """Ids as tokens, with log-probabilities where a job asks for them."""
    asked = [
        (first + place, token, row.job.logprobs)
        for row, first, run in zip(rows, firsts, runs, strict=False)
        if row.job.logprobs is not None and not isinstance(run, Exception)
        for place, token in enumerate(run)
    ]
    tokens: dict[int, Token] = {}
    if asked:
        numbers, ids, tops = zip(*asked, strict=True)
        found = told(logits[list(numbers)], ids, tops)
        tokens = dict(zip(numbers, found, strict=True))
    return [
        run
        if isinstance(run, Exception)
        else [tokens.get(first + place) or Token(token) for place, token in enumerate(run)]
        for first, run in zip(firsts, runs, strict=False)
    ]
