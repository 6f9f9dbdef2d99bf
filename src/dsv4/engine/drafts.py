"""The model's own draft for the sequences of an engine.

A drafted token stands if it is the token that the job would have drawn there anyway, with its own
random number: so drafts change how fast tokens come, and never which. (For a greedy draft this is
as often as any lossless rule can accept: with probability P(x).)

Each sequence has a slot here too, and a length of its own: an MTP block runs one token behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from dsv4.engine.running import Running
from dsv4.model.cache import Cache, SequenceState
from dsv4.model.draft import Proposal
from dsv4.model.transformer import Transformer
from dsv4.speculate import BlockDrafter, Drafter, MTPDrafter, Waiting


class Drafts:
    """Drafts of `slots` sequences; `threshold` cuts those that the draft itself doubts."""

    def __init__(self, model: Transformer, slots: int, threshold: float):
        config = model.config
        first = config.num_hidden_layers
        self.model, self.threshold = model, threshold
        self.stores = model.new_stores(slots, 0, range(first, first + config.draft_stages))
        self._waiting = [Waiting.nothing(model) for _ in range(slots)]
        self.pays = Pays()

    def follow(self, running: Running) -> None:
        """Make sure that the draft stands where its sequence does: it begins anew, without what
        came before, where it was not told of all tokens (a prefix that was reused, a pause).
        """
        state = running.state
        if running.draft is not None and running.followed == state.length:
            return
        running.draft = SequenceState(state.slot, length=state.length, reached=state.length)
        running.followed = state.length
        self._waiting[state.slot] = Waiting.nothing(self.model)
        for layer in self.stores.layers:
            layer.window.data[state.slot] = 0

    def read(
        self,
        rows: Sequence[Running],
        ids: Tensor,
        streams: Tensor,
        targets: Tensor | None,
        lengths: Sequence[int],
    ) -> None:
        """Take note of tokens that stand: see `speculate.Drafter`. The sequences have seen them."""
        self._drafter(rows).read(ids, streams, targets, lengths)
        for running, length in zip(rows, lengths, strict=True):
            running.followed += length

    def propose(self, rows: Sequence[Running], most: Sequence[int]) -> list[list[int]]:
        """Tokens after each sequence's last, at most so many, those that the draft trusts."""
        anchors = torch.tensor([running.ids[-1] for running in rows], device=self.model.device)
        proposal: Proposal = self._drafter(rows).propose(anchors, lambda logits: logits.argmax(-1))
        sure = proposal.trusted(self.threshold)
        return [
            ids[: min(n, bound)]
            for ids, n, bound in zip(proposal.ids.tolist(), sure, most, strict=True)
        ]

    @property
    def most(self) -> int:
        """Tokens of one draft."""
        return self.model.config.dspark_block_size or 1

    def _drafter(self, rows: Sequence[Running]) -> Drafter:
        cache = Cache(self.stores, [running.drafted for running in rows])
        if self.model.config.is_dspark:
            return BlockDrafter(self.model, cache)
        waiting = [self._waiting[running.state.slot] for running in rows]
        return MTPDrafter(self.model, cache, waiting)


class Pays:
    """Whether drafting pays, for each size of batch: seconds a token with drafts and without.

    A cycle of steps: WARM with drafts that are not counted, LEARN with, LEARN without, then what
    was faster. What it decides changes the speed of replies and nothing else.
    """

    WARM, LEARN, CYCLE = 16, 24, 1024

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}
        self._seconds: dict[tuple[int, bool], list[float]] = {}

    def wanted(self, batch: int) -> bool:
        """Whether the next step of `batch` sequences should draft."""
        size = batch.bit_length()
        step = self._steps.get(size, 0) % self.CYCLE
        if step < self.WARM + self.LEARN:
            return True
        if step < self.WARM + 2 * self.LEARN:
            return False
        return self._each(size, True) < self._each(size, False)

    def measured(self, batch: int, drafting: bool, tokens: int, seconds: float) -> None:
        """Note a step that gave `tokens` tokens."""
        size = batch.bit_length()
        step = self._steps.get(size, 0)
        self._steps[size] = step + 1
        if step % self.CYCLE == 0:
            self._seconds[size, True], self._seconds[size, False] = [], []
        if step % self.CYCLE >= self.WARM:
            self._seconds[size, drafting].append(seconds / max(tokens, 1))

    def _each(self, size: int, drafting: bool) -> float:
        """The median: a slow moment of the machine says nothing."""
        return median(self._seconds.get((size, drafting)) or [0.0])
