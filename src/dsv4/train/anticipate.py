"""Anticipatory routing: at step t features come from θ_t, the chosen experts from θ_{t−Δ}.

The batch of step t is fetched at step t − Δ and routed by the weights of then; what is kept until t
is the indices alone. The experts' weights come from the scores of step t.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from dsv4.train.data import Batch, Feed
from dsv4.train.schedule import Plan, Position, Step
from dsv4.train.step import Chosen

Route = Callable[[Batch, Step], Chosen]


class Fetched(NamedTuple):
    """A batch before its step; `experts` None: chosen by the step itself."""

    batch: Batch
    experts: Chosen | None
    feed: dict[str, Any]  # the position that it was fetched at


class Ahead:
    """The batches of a run, in order; while anticipating, `delay` of them ahead."""

    def __init__(self, feed: Feed, plan: Plan, delay: int):
        self.feed, self.plan, self.delay = feed, plan, delay
        self.until = 0  # the step at which anticipation ends
        self.skipped: set[int] = set()  # steps whose first batch is passed over
        self._waiting: deque[Fetched] = deque()

    def next(self, at: Position, route: Route) -> tuple[Batch, Chosen | None]:
        """The batch of the step at `at`. Batches that are fetched early are routed by `route`."""
        if at.step < self.until:
            ahead = self._after(at, len(self._waiting))
            while len(self._waiting) <= self.delay and not self.plan.ended(ahead):
                fetched = self._fetch(ahead)
                experts = route(fetched.batch, self.plan.step(ahead))
                self._waiting.append(fetched._replace(experts=experts))
                ahead = self.plan.after(ahead)
        if not self._waiting:
            self._waiting.append(self._fetch(at))
        first = self._waiting.popleft()
        return first.batch, first.experts

    def _fetch(self, at: Position) -> Fetched:
        step, before = self.plan.step(at), self.feed.state_dict()
        what = step.rows, step.stage.seq_len, step.stage.least
        if at.step in self.skipped:
            self.feed.next(*what)
        return Fetched(self.feed.next(*what), None, before)

    def _after(self, at: Position, steps: int) -> Position:
        for _ in range(steps):
            at = self.plan.after(at)
        return at

    # ---- in a saved state --------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position of the next step's batch, and the experts of those that wait."""
        first = self._waiting[0].feed if self._waiting else self.feed.state_dict()
        return {
            "feed": first,
            "experts": [fetched.experts for fetched in self._waiting],
            "until": self.until,
            "skipped": sorted(self.skipped),
        }

    def load_state_dict(self, state: Mapping[str, Any], at: Position) -> None:
        """Go to where a run stood at `at`: what waited is fetched again, and not routed again."""
        self.feed.load_state_dict(state["feed"])
        self.until, self.skipped = state["until"], set(state["skipped"])
        self._waiting.clear()
        for experts in state["experts"]:
            self._waiting.append(self._fetch(at)._replace(experts=_chosen(experts)))
            at = self.plan.after(at)


def _chosen(experts: Sequence[Sequence[Tensor]] | None) -> Chosen | None:
    return None if experts is None else [list(layers) for layers in experts]
