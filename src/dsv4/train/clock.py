"""A run of so many minutes: what is left of its tokens becomes what fits into what is left of them.

seconds to go = operations to go · seconds an operation (of late) + evaluations · seconds of one

Where that misses the time that is left, the stages from here on are stretched: shorter at once,
longer only while the rate is constant, since a rate that has fallen does not rise again.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Sequence

from dsv4.config import Config
from dsv4.train.flops import flops_per_token
from dsv4.train.recipe import Recipe, Stage
from dsv4.train.schedule import Plan, Position

RECENT = 0.25  # of the time: how far back speed is looked at
LATE, EARLY = 0.01, 0.05  # of the time: what an end may miss it by …
UNSURE = 0.1  # … or of the time left


class Clock:
    """How a run stands against its time; `spent` are seconds of it before."""

    def __init__(self, seconds: float, spent: float = 0.0):
        self.seconds = seconds
        self.begun = time.perf_counter() - spent
        self.evaluation: float | None = None  # seconds of the last one
        self._told = 0.0
        self._steps: deque[tuple[float, float]] = deque()  # seconds, operations
        self._count = 0  # of steps
        self._sums = [0.0, 0.0]  # of those that are looked at: seconds, operations

    @property
    def spent(self) -> float:
        """Seconds since the run began, without those in which it was stopped."""
        return time.perf_counter() - self.begun

    def took(self, seconds: float, work: float) -> None:
        """A step of so many operations was made."""
        self._count += 1
        if self._count == 2:
            self._drop()  # the first is slow: memory and threads were new to it
        self._steps.append((seconds, work))
        self._sums = [self._sums[0] + seconds, self._sums[1] + work]
        while self._sums[0] - self._steps[0][0] > RECENT * self.seconds:
            self._drop()

    def _drop(self) -> None:
        seconds, work = self._steps.popleft()
        self._sums = [self._sums[0] - seconds, self._sums[1] - work]

    def says(self) -> bool:
        """Whether a change is to be told of: not in each step, but in each tenth of the time."""
        due = self.spent >= self._told
        if due:
            self._told = self.spent + self.seconds / 10
        return due

    def factor(self, work: float, evaluations: int, evaluation_work: float) -> float:
        """What to stretch the operations to go by, so that the end is in time; 1 where it is."""
        young = len(self._steps) < 2 or self.spent < EARLY * self.seconds
        if young and self.spent < self.seconds:
            return 1.0  # the first steps say little
        pace = self._sums[0] / self._sums[1]
        one = pace * evaluation_work if self.evaluation is None else self.evaluation
        left = self.seconds - self.spent - evaluations * one
        late = pace * work - left
        early = max(EARLY * self.seconds, UNSURE * left)
        most = max(LATE * self.seconds, UNSURE * left, self._steps[-1][0] / 2)
        return 1.0 if -early <= late <= most else max(0.0, left / (pace * work))


def work_left(plan: Plan, config: Config, at: Position) -> float:
    """The operations of a plan's stages from a position on."""
    return sum(
        tokens * flops_per_token(config, stage.seq_len, dense=stage.attention != "sparse")
        for stage, tokens in zip(plan.stages[at.stage :], _left(plan, at), strict=True)
    )


def evaluations_left(plan: Plan, at: Position) -> int:
    """How often a run is evaluated from a position on: where stages end, and now and then."""
    pairs = zip(plan.stages[at.stage :], _left(plan, at), strict=True)
    steps = sum(tokens // stage.batch_tokens for stage, tokens in pairs)
    return len(plan.stages) - at.stage + steps // plan.recipe.evaluate_every


def evaluated_at_most(plan: Plan, texts: int) -> int:
    """The tokens of each text to evaluate, so that all evaluations cost a tenth of the training; a
    token costs a third there."""
    share = 0.3 * plan.tokens / (evaluations_left(plan, Position()) * max(1, texts))
    return max(1, min(plan.recipe.evaluate_tokens, round(share)))


def stretched(plan: Plan, at: Position, factor: float) -> Recipe:
    """The recipe with what is left of its stages multiplied, a row of each at least."""
    stages = list(plan.stages)
    for number, tokens in enumerate(_left(plan, at), start=at.stage):
        stage = stages[number]
        rows = max(1, round(tokens * factor / stage.seq_len))
        done = stage.tokens - tokens
        stages[number] = dataclasses.replace(stage, tokens=done + rows * stage.seq_len)
    return fixed(plan, stages)


def fixed(plan: Plan, stages: Sequence[Stage]) -> Recipe:
    """A plan's recipe, its stages' tokens as they are."""
    return dataclasses.replace(
        plan.recipe, tokens=None, ramp_tokens=plan.ramp_tokens, stages=tuple(stages)
    )


def _left(plan: Plan, at: Position) -> list[int]:
    """The tokens to go of the stages from a position's on."""
    left = [stage.tokens for stage in plan.stages[at.stage :]]
    if left:
        left[0] -= at.stage_tokens
    return left
