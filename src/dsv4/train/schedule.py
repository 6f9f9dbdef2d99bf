"""What each step is: its stage, its rows, its learning rate. All of it follows from the position.

rate:  warm-up over `warmup` steps, constant, cosine to `floor` over the last `decay` of the tokens
batch: from `ramp_from` linearly to the stage's in the first `ramp_tokens`
MTP:   `mtp_weight`, and `mtp_weight_at_end` while the rate falls
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from dsv4.train.recipe import Recipe, Stage


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done, and tokens taken, of the run and of its stage."""

    step: int = 0
    tokens: int = 0
    stage: int = 0
    stage_tokens: int = 0


@dataclass(frozen=True)
class Step:
    """What the step at a position is."""

    number: int  # from 0
    stage_number: int
    stage: Stage
    rows: int
    lr: float
    mtp_weight: float

    @property
    def tokens(self) -> int:
        """Places in its rows."""
        return self.rows * self.stage.seq_len

    @property
    def dense(self) -> bool:
        """Whether CSA layers attend to every entry."""
        return self.stage.attention != "sparse"

    @property
    def indexer_only(self) -> bool:
        """Whether all but the indexers is frozen."""
        return self.stage.attention == "indexer"


class Plan:
    """The steps of a recipe."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        planned = sum(stage.tokens for stage in recipe.stages)
        factor = 1.0 if recipe.tokens is None else recipe.tokens / planned
        self.stages = tuple(_stretched(stage, factor) for stage in recipe.stages)
        self.tokens = sum(stage.tokens for stage in self.stages)
        self.ramp_tokens = round(recipe.ramp_tokens * factor)

    def ended(self, at: Position) -> bool:
        """Whether nothing is left to do."""
        return at.stage == len(self.stages)

    def step(self, at: Position) -> Step:
        """The step to do at a position before the end."""
        stage = self.stages[at.stage]
        left = math.ceil((stage.tokens - at.stage_tokens) / stage.seq_len)
        rows = max(1, min(left, int(self._batch_tokens(at)) // stage.seq_len))
        lr = self.lr(at) if stage.lr is None else stage.lr
        return Step(at.step, at.stage, stage, rows, lr, self.mtp_weight(at))

    def after(self, at: Position) -> Position:
        """The position after the step at `at`."""
        stage, taken = self.stages[at.stage], self.step(at).tokens
        done = at.stage_tokens + taken
        over = done >= stage.tokens
        return Position(at.step + 1, at.tokens + taken, at.stage + over, 0 if over else done)

    def steps(self) -> Iterator[tuple[Position, Step]]:
        """Every step from the beginning."""
        at = Position()
        while not self.ended(at):
            yield at, self.step(at)
            at = self.after(at)

    def lr(self, at: Position) -> float:
        """The recipe's learning rate at a position."""
        recipe = self.recipe
        if at.step < recipe.warmup:
            return recipe.lr * (at.step + 1) / recipe.warmup
        if at.tokens < self.decay_begins:
            return recipe.lr
        through = (at.tokens - self.decay_begins) / max(1, self.tokens - self.decay_begins)
        cosine = 0.5 * (1 + math.cos(math.pi * min(through, 1.0)))
        return recipe.lr * (recipe.floor + (1 - recipe.floor) * cosine)

    def mtp_weight(self, at: Position) -> float:
        """The weight of the MTP loss at a position."""
        falls = at.tokens >= self.decay_begins
        return self.recipe.mtp_weight_at_end if falls else self.recipe.mtp_weight

    @property
    def decay_begins(self) -> int:
        """The tokens after which the rate falls."""
        return self.tokens - round(self.recipe.decay * self.tokens)

    def _batch_tokens(self, at: Position) -> float:
        whole = self.stages[at.stage].batch_tokens
        if at.tokens >= self.ramp_tokens:
            return whole
        start = min(self.recipe.ramp_from, whole)
        return start + (whole - start) * at.tokens / self.ramp_tokens


def _stretched(stage: Stage, factor: float) -> Stage:
    """The stage with its tokens in whole rows."""
    rows = max(1, math.ceil(stage.tokens * factor / stage.seq_len - 1e-9))
    return dataclasses.replace(stage, tokens=rows * stage.seq_len)
