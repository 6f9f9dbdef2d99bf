"""A job on its way: what it has of the pool, and what it has said so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dsv4.engine.request import Job, Listener, Token, Usage
from dsv4.engine.sampler import Row
from dsv4.model.cache import SequenceState


class Running:
    """`ids` are the prompt's and the generated; `state` those that the model has seen.

    `number` is the order of arrival: who comes later waits for, and makes room for, who came first.
    """

    def __init__(
        self,
        job: Job,
        listener: Listener,
        row: Row,
        number: int,
        wake: Callable[[], None],
    ):
        self.job, self.listener, self.row = job, listener, row
        self.number, self._wake = number, wake
        self.ids = list(job.ids)
        self.usage = Usage()
        self.prompt: list[Token] = []  # its log-probabilities, where they are asked for
        self.sequence: SequenceState | None = None
        self.draft: SequenceState | None = None
        self.followed = 0  # tokens that the draft was told of
        self.turn = 0  # when its prompt was last read, or it came
        self.cancelled = self.over = self.told = False

    @property
    def state(self) -> SequenceState:
        """Its sequence, while it holds one."""
        assert self.sequence is not None
        return self.sequence

    @property
    def drafted(self) -> SequenceState:
        """Its sequence in the draft."""
        assert self.draft is not None
        return self.draft

    @property
    def pending(self) -> int:
        """Tokens that the model has not seen."""
        return len(self.ids) - self.state.length

    def cancel(self) -> None:
        """Stop before the next step; the listener hears `cancelled`."""
        self.cancelled = True
        self._wake()

    def say(self, new: Sequence[Token]) -> bool:
        """Tell new tokens, and before the first that the prompt was read; is the reply over?"""
        if not self.told:
            self.told = True
            self.listener.prefilled(self.usage, self.prompt)
        return self.listener.tokens(new)
