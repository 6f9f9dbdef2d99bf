"""Speculative decoding: a draft proposes tokens, one pass of the model verifies them.

    step:  anchors → drafter.propose → cut by confidence → model over [anchor, x_1 … x_n]
           → accept → the cache steps back over what was rejected → drafter.read of what stands

The anchor is a token that was chosen and not yet processed. Sequences stand at lengths of their own
and may have different numbers of drafts. Whatever the draft, what comes out is distributed as
without it (ops/accept.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dsv4.model.cache import Cache
from dsv4.model.draft import Proposal, propose, remember
from dsv4.model.transformer import Transformer
from dsv4.ops.accept import accept_greedy, accept_sampled
from dsv4.ops.draw import draw
from dsv4.sampling import Sampling, probabilities, sample

Choose = Callable[[Tensor], Tensor]


class Drafter(Protocol):
    """What drafts for a batch of sequences. `most` is the number of tokens it proposes."""

    most: int

    def read(
        self, ids: Tensor, streams: Tensor, targets: Tensor | None, lengths: Sequence[int]
    ) -> None:
        """Take note of committed tokens: ids [b, n], what streams_and_targets gave for them, and
        how many columns of each row count."""

    def propose(self, anchors: Tensor, choose: Choose) -> Proposal:
        """Drafts after the anchors [b], each chosen by `choose`(logits [b, V]) → [b]."""


def drafter(model: Transformer, batch: int) -> Drafter:
    """The drafter of the model's own draft, with an empty cache.

    Raises ValueError for a model without one.
    """
    if not model.mtp:
        raise ValueError("this model has no draft: its checkpoint holds no mtp.* tensors")
    cache = model.new_draft_cache(batch)
    return BlockDrafter(model, cache) if model.config.is_dspark else MTPDrafter(model, cache)


class BlockDrafter:
    """DSpark: a block of tokens from the context of the target layers."""

    def __init__(self, model: Transformer, cache: Cache):
        self.model, self.cache = model, cache
        self.most = model.config.dspark_block_size or 0

    def read(
        self, ids: Tensor, streams: Tensor, targets: Tensor | None, lengths: Sequence[int]
    ) -> None:
        """Store the tokens' context entries."""
        assert targets is not None
        remember(self.model, targets, self.cache, lengths)

    def propose(self, anchors: Tensor, choose: Choose) -> Proposal:
        """See model/draft.py."""
        return propose(self.model, anchors, self.cache, choose)


@dataclass
class Waiting:
    """What the MTP block has not run for good of one sequence: the streams [k, hc, d] of its last
    tokens, and the tokens after them, all but the one after the last.

    `ran` is the token that the last row was run with all the same, for a proposal: where it comes
    true that row stands.
    """

    streams: Tensor
    after: list[int]
    ran: int | None = None

    @classmethod
    def nothing(cls, model: Transformer) -> Waiting:
        """Of a sequence without tokens, or whose tokens were not told."""
        shape = (0, model.config.hc_mult, model.config.hidden_size)
        return cls(torch.empty(shape, dtype=model.dtype, device=model.device), [])

    def add(self, tokens: list[int], streams: Tensor) -> bool:
        """Tokens that stand, and their streams [n, hc, d]; whether the row that ran stands too."""
        stands = self.ran == tokens[0]
        self.ran = None
        if stands or not len(self.streams):
            self.streams, self.after = streams, tokens[1:]
        else:
            self.streams = torch.cat((self.streams, streams))
            self.after = [*self.after, *tokens]
        return stands

    def keep_last(self) -> None:
        """The rows before the last were run."""
        self.streams, self.after = self.streams[-1:].clone(), []  # a piece of a prompt may go


class MTPDrafter:
    """MTP: one token. Row t needs token t + 1, so the last token's streams wait for the anchor.

    Each row is run once: the proposal's stands where its anchor does, and those of drafts that
    stood are run with the next proposal, in one call.
    """

    most = 1
    FEW = 4  # rows that may wait for a proposal

    def __init__(self, model: Transformer, cache: Cache, waiting: list[Waiting] | None = None):
        self.model, self.cache = model, cache
        self.waiting = waiting or [Waiting.nothing(model) for _ in range(cache.batch)]

    def read(
        self, ids: Tensor, streams: Tensor, targets: Tensor | None, lengths: Sequence[int]
    ) -> None:
        """Keep the rows; where many have a known next token, run the block over those."""
        told = zip(self.waiting, self.cache.sequences, ids.tolist(), lengths, strict=True)
        for b, (waiting, sequence, row, count) in enumerate(told):
            if count and waiting.add(row[:count], streams[b, :count]):
                sequence.length += 1
        if max(len(waiting.after) for waiting in self.waiting) > self.FEW:
            rows = [waiting.streams[: len(waiting.after)] for waiting in self.waiting]
            self._run(rows, [waiting.after for waiting in self.waiting])
            for waiting in self.waiting:
                waiting.keep_last()

    def propose(self, anchors: Tensor, choose: Choose) -> Proposal:
        """One token from each one's last row, which the cache stores and does not count."""
        ids = anchors.tolist()
        rows = [waiting.streams for waiting in self.waiting]
        rows = [row if len(row) else row.new_zeros(1, *row.shape[1:]) for row in rows]
        following = [[*w.after, anchor] for w, anchor in zip(self.waiting, ids, strict=True)]
        streams = self._run(rows, following)
        self.cache.truncate([length - 1 for length in self.cache.lengths])
        for waiting, anchor in zip(self.waiting, ids, strict=True):
            if len(waiting.streams):
                waiting.keep_last()
                waiting.ran = anchor
        last = [row[len(each) - 1] for row, each in zip(streams, following, strict=True)]
        _, logits = self.model.draft_logits(torch.stack(last).unsqueeze(1))  # [b, 1, V]
        return Proposal(choose(logits[:, 0]).unsqueeze(1), logits)

    def _run(self, rows: list[Tensor], following: list[list[int]]) -> Tensor:
        """The block over rows [k_b, hc, d], each with the token that follows it → its streams,
        [b, longest, hc, d]."""
        lengths = [len(each) for each in following]
        n = max(lengths)
        ids = torch.tensor([each + [0] * (n - len(each)) for each in following])
        streams = rows[0].unsqueeze(0)
        if len(rows) > 1:
            streams = streams.new_zeros(len(rows), n, *streams.shape[2:])
            for padded, row in zip(streams, rows, strict=True):
                padded[: len(row)] = row
        return self.model.draft_streams(streams, ids.to(self.model.device), self.cache, lengths)


@dataclass(frozen=True)
class Step:
    """What a step gave each sequence: its new tokens (none if it rested), and how many drafts were
    verified and stood."""

    ids: list[list[int]]
    verified: list[int]
    accepted: list[int]


@torch.inference_mode()
def step(
    model: Transformer,
    cache: Cache,
    drafter: Drafter,
    anchors: Sequence[int],
    most: Sequence[int | None],
    samplings: Sequence[Sampling],
    generators: Sequence[np.random.Generator],
    threshold: float = 0.0,
) -> Step:
    """Draft, verify, and bring both caches to the tokens that stand.

    `anchors[b]` is the token at position cache.lengths[b]; `most[b]` bounds its drafts (0: none are
    verified, None: the sequence rests). Drafts from the first on whose confidence is below
    `threshold` are left out; none are made where no bound is above 0. The tokens end at EOS; the
    last of them is the next anchor.
    """
    column = torch.tensor(anchors, device=model.device)
    ids, drafted, counts = column.unsqueeze(1), None, [0] * len(anchors)
    if any(most):
        wanting = [b for b, bound in enumerate(most) if bound]
        proposal = drafter.propose(column, _chooser(column, wanting, samplings, generators))
        sure = proposal.trusted(threshold)
        counts = [min(bound or 0, n) for bound, n in zip(most, sure, strict=True)]
        ids = torch.cat((ids, proposal.ids), dim=1)[:, : max(counts) + 1]
        drafted = proposal.logits
    before = list(cache.lengths)
    lengths = [0 if bound is None else n + 1 for bound, n in zip(most, counts, strict=True)]
    streams, targets = model.streams_and_targets(ids, cache, lengths)
    logits = model.logits(streams)  # [b, n + 1, V]
    accepted, last = [0] * len(anchors), list(anchors)
    awake = [b for b, bound in enumerate(most) if bound is not None]
    for accept, greedy in ((_accept_greedy, True), (_accept_sampled, False)):
        some = [b for b in awake if samplings[b].greedy is greedy]
        if some:
            verified = Verified(
                ids[some, 1:],
                None if drafted is None else drafted[some, : ids.shape[1] - 1],
                logits[some],
                [counts[b] for b in some],
                [samplings[b] for b in some],
                [generators[b] for b in some],
            )
            standing, tokens = accept(verified)
            for b, m, token in zip(some, standing.tolist(), tokens.tolist(), strict=True):
                accepted[b], last[b] = m, token
    emitted: list[list[int]] = [[] for _ in anchors]
    drafts = ids[:, 1:].tolist()
    for b in awake:
        emitted[b] = _until([*drafts[b][: accepted[b]], last[b]], model.config.eos_token_id)
    kept = [len(tokens) for tokens in emitted]  # the anchor, and all of them but the last
    cache.truncate([length + n for length, n in zip(before, kept, strict=True)])
    drafter.read(ids, streams, targets, kept)
    return Step(emitted, counts, accepted)


def _chooser(
    anchors: Tensor,
    wanting: list[int],
    samplings: Sequence[Sampling],
    generators: Sequence[np.random.Generator],
) -> Choose:
    """Draws the drafts of the sequences `wanting`; the others' drafts are their anchors, unused, so
    that no random number of theirs is spent."""

    def choose(logits: Tensor) -> Tensor:
        drawn = sample(
            logits[wanting], [samplings[b] for b in wanting], [generators[b] for b in wanting]
        )
        chosen = anchors.clone()
        chosen[wanting] = torch.tensor(drawn, device=chosen.device)
        return chosen

    return choose


@dataclass(frozen=True)
class Verified:
    """Drafts int64 [b, n] of some sequences, the logits that they came from [b, n, V] (None where
    n is 0), the model's own [b, n + 1, V], and how many drafts of each are looked at."""

    drafts: Tensor
    drafted: Tensor | None
    rows: Tensor
    counts: list[int]
    samplings: list[Sampling]
    generators: list[np.random.Generator]

    @property
    def count(self) -> Tensor:
        """`counts` [b]."""
        return torch.tensor(self.counts, device=self.rows.device)

    @property
    def real(self) -> Tensor:
        """Which of the model's rows count: bool [b, n + 1]."""
        column = torch.arange(self.rows.shape[1], device=self.rows.device)
        return column <= self.count.unsqueeze(1)

    def settings(self, more: int) -> list[Sampling]:
        """Each sequence's, once for each of its first counts + `more` rows."""
        pairs = zip(self.samplings, self.counts, strict=True)
        return [sampling for sampling, n in pairs for _ in range(n + more)]


def _accept_greedy(v: Verified) -> tuple[Tensor, Tensor]:
    """How many drafts stand, int64 [b], and the tokens after them [b]."""
    settings = v.settings(1)
    found = sample(v.rows[v.real], settings, [v.generators[0]] * len(settings))  # draws no number
    best = _spread(torch.tensor(found, device=v.rows.device), v.real)
    return accept_greedy(v.drafts, best, v.count)


def _accept_sampled(v: Verified) -> tuple[Tensor, Tensor]:
    """The same where tokens are drawn: a number for each draft that is looked at, then one more."""
    p = _spread(probabilities(v.rows[v.real], v.settings(1)), v.real)  # [b, n + 1, V]
    q = p[:, :0]
    if v.drafted is not None:
        looked_at = v.real[:, 1:]
        q = _spread(probabilities(v.drafted[looked_at], v.settings(0)), looked_at)  # [b, n, V]
    pairs = zip(v.generators, v.counts, strict=True)
    drawn = np.concatenate([generator.random(n + 1) for generator, n in pairs])
    numbers = _spread(torch.from_numpy(drawn).to(p.device), v.real)  # [b, n + 1]
    standing, rest = accept_sampled(v.drafts, q, p, numbers[:, :-1], v.count)
    return standing, draw(rest, numbers.gather(1, v.count.unsqueeze(1)).flatten().tolist())


def _spread(values: Tensor, real: Tensor) -> Tensor:
    """values [rows, ..] → [*real.shape, ..]: in turn where `real` is, zeros elsewhere."""
    if bool(real.all()):
        return values.view(*real.shape, *values.shape[1:])
    out = values.new_zeros(*real.shape, *values.shape[1:])
    out[real] = values
    return out


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def token_ids(
    model: Transformer,
    logits: Tensor,
    cache: Cache,
    drafter: Drafter,
    sampling: Sampling,
    threshold: float = 0.0,
) -> Iterator[list[list[int]]]:
    """`generation.token_ids` with drafts: from logits [b, V] of a prefill that the drafter read,
    step by step each sequence's new tokens, none once it has ended.

    Ends when all have: by EOS (their last token then), `max_tokens` or the end of the context.
    """
    generators = [sampling.generator(b) for b in range(cache.batch)]
    samplings = [sampling] * cache.batch
    emitted = [[token] for token in sample(logits, samplings, generators)]
    anchors, made = [0] * cache.batch, [0] * cache.batch
    ended = [False] * cache.batch
    while True:
        yield emitted
        for b, tokens in enumerate(emitted):
            if tokens:
                anchors[b], made[b] = tokens[-1], made[b] + len(tokens)
                ended[b] = anchors[b] == model.config.eos_token_id
        room = [model.config.max_position_embeddings - length for length in cache.lengths]
        left = [sampling.max_tokens - n for n in made]
        most = [
            None if over or min(r, n) < 1 else min(r, n, drafter.most + 1) - 1
            for over, r, n in zip(ended, room, left, strict=True)
        ]
        if all(bound is None for bound in most):
            return
        emitted = step(model, cache, drafter, anchors, most, samplings, generators, threshold).ids
