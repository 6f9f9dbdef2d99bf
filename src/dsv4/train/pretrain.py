"""The training loop: fetch → step → look at the loss → log → evaluate → save.

Everything that the next step needs is in a saved state, and the same state gives the same steps: a
run that was killed and resumed gives the numbers of one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from dsv4.interrupt import ENDING, interruptible
from dsv4.train.anticipate import Ahead
from dsv4.train.checkpoints import Checkpoints
from dsv4.train.clock import (
    Clock,
    evaluated_at_most,
    evaluations_left,
    stretched,
    work_left,
)
from dsv4.train.data import Feed
from dsv4.train.evaluate import evaluate
from dsv4.train.flops import flops_per_token
from dsv4.train.meter import Meter
from dsv4.train.metrics import Metrics
from dsv4.train.parallel.sizes import Sizes
from dsv4.train.progress import Lines, Progress
from dsv4.train.recipe import Recipe, Stage, Text
from dsv4.train.schedule import Plan, Position, Step
from dsv4.train.sinks import Sinks
from dsv4.train.spike import SpikeDetector
from dsv4.train.state import History, TrainingError, restore
from dsv4.train.step import NotFinite, Trainer, first_broken, micro_rows
from dsv4.train.whole import WHOLE, Whole

CHECKPOINTS, METRICS_FILE = "checkpoints", "metrics.jsonl"
NOTICE = "\nfinishing this step; Ctrl-C again stops at once\n"
SHARED_NOTICE = "\nfinishing this step in all processes, and saving\n"


class Run:
    """A model in training, in a folder that holds its states and its metrics.

    `texts` are folders of token files in place of the recipe's; `state` is what to go on from
    (`Checkpoints.newest`), without one the run begins anew. Of a recipe's minutes so many seconds
    are `spent` already.
    Raises: DataError for text that cannot be trained on, TrainingError for another run's state.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        texts: tuple[Text, ...] = (),
        state: dict[str, Any] | None = None,
        whole: Whole = WHOLE,
        checkpoints: Checkpoints | None = None,
        spent: float = 0.0,
    ):
        recipe.check()
        begun = time.perf_counter() - spent
        self.recipe, self.out, self.config = recipe, out, recipe.model_config
        self.plan = Plan(recipe)
        eos, vocab = self.config.eos_token_id, self.config.vocab_size
        self.texts = texts or recipe.text
        self.feed = Feed(self.texts, seed=recipe.seed, eos=eos, vocab=vocab)
        for stage in recipe.stages:
            self.feed.mixed(stage.least)  # or it is refused now
        self.whole, self.checkpoints = whole, checkpoints or Checkpoints(out / CHECKPOINTS)
        self.checkpoints.keep, self.checkpoints.every = recipe.keep, recipe.save_every
        self.position, self.history = Position(), History()
        self.ahead = Ahead(self.feed, self.plan, recipe.stability.delay)
        self.detector = SpikeDetector(recipe.stability)
        self._beginning = self.ahead.state_dict()
        self.trainer = Trainer(self.config, recipe, whole)
        self.saved: int | None = None  # the step of the newest state in the folder
        if state is not None:
            self._restore(state)
            self.saved = self.step
        self.meter = Meter(self.config, self.plan, Sizes.parse(recipe.mesh).processes)
        self.clock = None
        if recipe.minutes is not None:
            if state is None:
                most = evaluated_at_most(self.plan, len(self.feed.held_out))
                self._planned(Plan(dataclasses.replace(recipe, evaluate_tokens=most)))
            spent = self.history.spent + time.perf_counter() - begun
            self.clock = Clock(60 * recipe.minutes, spent)
        self.metrics = Metrics(out / METRICS_FILE if whole.chief else Path(os.devnull), self.step)
        self.progress: Progress = Lines(lambda line: None)
        self.ended_by: int | None = None  # the signal that asked this process to end

    @property
    def model(self) -> torch.nn.Module:
        """The model."""
        return self.trainer.model

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.position.step

    @property
    def kept(self) -> str:
        """What a run that ends here leaves, and how to go on."""
        if self.saved is None:
            return "no state is saved yet: the same command begins anew"
        file = self.checkpoints.file(self.saved)
        return f"the state after step {self.saved} is kept in {file}: --resume goes on"

    def train(self, progress: Progress | Callable[[str], None] = print) -> bool:
        """Run to the last step, or until a signal of ENDING: then the step at work is finished and
        saved. Returns whether it came to the end.

        Raises: TrainingError, WriteError; what is saved stays as it is.
        """
        recipe, chief = self.recipe, self.whole.chief
        if chief:
            self.progress = progress if isinstance(progress, Progress) else Lines(progress)
        sinks = Sinks(recipe.sinks if chief else (), self.out, recipe, say=self.progress.note)
        shared = self.whole is not WHOLE
        notice = (SHARED_NOTICE if shared else NOTICE) if chief else ""
        try:
            with interruptible(notice, ENDING, patient=shared) as asked:
                while not self.plan.ended(self.position):
                    begun, how = time.perf_counter(), self.plan.step(self.position)
                    row = self.train_step()
                    if row is None:  # it went back
                        continue
                    took = time.perf_counter() - begun
                    row |= self._evaluated(row["stage"])
                    if self.clock is not None:
                        self._fit(self.clock, how, took)
                    self.metrics.append(row)
                    sinks.log(row)
                    stop = self.whole.any(bool(asked))
                    if stop or self.step % recipe.save_every == 0:
                        self.save()
                    self.progress.show(row, self.plan.tokens)
                    if stop:
                        self.ended_by = next(iter(asked), None)
                        return False
        finally:
            sinks.close()
            self.progress.close()
        self.save()
        return True

    def train_step(self) -> dict[str, Any] | None:
        """One step, and its row of metrics; None where its loss was a spike and the run went back.

        Raises TrainingError, before a weight, moment or bias changes, if loss or gradients are not
        finite and the recipe says to stop.
        """
        begun = time.perf_counter()
        how = self.plan.step(self.position)
        batch, experts = self.ahead.next(self.position, self.trainer.route)
        anticipated = experts is not None
        try:
            found, loads = self.trainer.step(batch, how, experts)
        except NotFinite as error:
            return self._skip(how, str(error))
        if not how.indexer_only and self.detector.observe(found["loss"]):
            self._go_back(how, found["loss"])
            return None
        self.position = self.plan.after(self.position)
        seconds = time.perf_counter() - begun
        self.history.seconds += seconds
        row: dict[str, Any] = {"step": self.step, "tokens": self.position.tokens}
        row |= {"stage": how.stage_number, **found}
        row |= {"lr": how.lr, "mtp_weight": how.mtp_weight}
        row |= self.meter.measure(self.position, how, seconds, loads)
        for name in ("skipped", "rollbacks"):
            if count := getattr(self.history, name):
                row[name] = count
        return row | ({"anticipated": True} if anticipated else {})

    def _evaluated(self, stage: int) -> dict[str, float]:
        """What is known of held-out text after a step: now and then, and where a stage ends, there
        also with the attention of the next one."""
        ends = self.position.stage != stage
        if not ends and self.step % self.recipe.evaluate_every:
            return {}
        found, dense = self.evaluate(stage), _is_dense(self.plan.stages[stage])
        if ends and _is_dense(self.plan.stages[min(stage + 1, len(self.plan.stages) - 1)]) != dense:
            switched = self.evaluate(stage, dense=not dense)
            found["bits_per_byte_switched"] = switched["bits_per_byte"]
        return found

    def evaluate(self, stage_number: int = -1, *, dense: bool | None = None) -> dict[str, float]:
        """The loss on held-out text, with the rows of a stage and its attention, or as `dense`."""
        stage = self.plan.stages[stage_number]
        most = min(stage.batch_tokens, self.recipe.evaluate_tokens)
        rows = micro_rows(self.recipe, max(1, most // stage.seq_len), stage.seq_len)
        begun = time.perf_counter()
        found = evaluate(
            self.trainer.model,
            self.feed,
            rows=rows,
            seq_len=stage.seq_len,
            tokens=self.recipe.evaluate_tokens,
            dense=_is_dense(stage) if dense is None else dense,
            whole=self.whole,
        )
        if self.clock is not None:
            self.clock.evaluation = time.perf_counter() - begun
        if not math.isfinite(found["validation_loss"]):
            where = first_broken("weights", self.model.state_dict(), self.whole)
            self._stop(f"the validation loss is {found['validation_loss']}, {where}")
        return found

    def _fit(self, clock: Clock, how: Step, took: float) -> None:
        """Where the end would miss the recipe's minutes, stretch what is left of the plan."""
        plan, at = self.plan, self.position
        each = flops_per_token(self.config, how.stage.seq_len, dense=how.dense)
        clock.took(took, how.tokens * each)
        if plan.ended(at):
            return
        evaluated = len(self.feed.held_out) * self.recipe.evaluate_tokens * each / 3
        work = work_left(plan, self.config, at)
        factor = clock.factor(work, evaluations_left(plan, at), evaluated)
        if factor == 1 or (factor > 1 and at.tokens >= plan.decay_begins):
            return
        changed = Plan(stretched(plan, at, factor))
        if changed.stages == plan.stages:
            return
        self._planned(changed)
        self.ahead.load_state_dict(self.ahead.state_dict() | {"experts": []}, at)
        if clock.says():
            self.progress.note(
                f"step {self.step}: {changed.tokens:,} tokens are what fits into "
                f"{self.recipe.minutes:g} min, not {plan.tokens:,}"
            )

    def _planned(self, plan: Plan) -> None:
        self.recipe, self.plan = plan.recipe, plan
        self.ahead.plan = self.meter.plan = plan

    # ---- when a step goes wrong ----------------------------------------------------------------

    def _skip(self, how: Step, why: str) -> dict[str, Any]:
        """Pass over a batch that gave no finite step, or stop."""
        policy = self.recipe.stability
        if policy.on_bad_batch == "stop":
            self._stop(f"{why}: nothing was changed; lower --lr")
        if self.history.skipped == policy.most_skipped:
            self._stop(f"{why}: nothing was changed, and {policy.most_skipped} steps are skipped")
        self.history.skipped += 1
        self.position = self.plan.after(self.position)
        self.progress.note(f"step {self.step} is skipped: {why}")
        return {
            "step": self.step,
            "tokens": self.position.tokens,
            "stage": how.stage_number,
            "event": "skipped",
            "why": why,
            "skipped": self.history.skipped,
        }

    def _go_back(self, how: Step, loss: float) -> None:
        """Return to a saved state older than the spike, and route by older weights for a while. A
        step that is a spike again has its batch passed over."""
        policy, spike, bound = self.recipe.stability, self.step, self.detector.bound
        first = spike - policy.patience + 1
        history = dataclasses.replace(self.history, rollbacks=self.history.rollbacks + 1)
        if history.rollbacks > policy.most_rollbacks:
            self._stop(
                f"the loss is {loss:.3f}, a spike above {bound:.3f}, after {policy.most_rollbacks} "
                "rollbacks"
            )
        skipped = self.ahead.skipped | (
            set(range(first, spike + 1)) if first in history.spiked else set()
        )
        history.spiked = [*history.spiked, first]
        state = self.checkpoints.before(first - policy.margin, self.progress.note)
        if state is None:
            self._begin()
        else:
            self._restore(state)
        self.history, self.ahead.skipped = history, skipped
        if policy.anticipate:
            self.ahead.until = spike + 1 + policy.anticipate
        self.checkpoints.drop_after(self.step)
        self.saved = None
        self.save()
        self.metrics = Metrics(self.metrics.file, self.step)
        event = {"step": self.step, "event": "rollback", "from": spike + 1, "loss": loss}
        event |= {"bound": bound, "anticipate_until": self.ahead.until}
        self.metrics.append(event)
        again = f", whose batches are passed over (steps {first + 1} to {spike + 1})"
        self.progress.note(
            f"step {spike + 1}: the loss is {loss:.3f}, a spike above {bound:.3f}: back to step "
            f"{self.step}; experts are chosen {policy.delay} steps ahead until step "
            f"{self.ahead.until}{again if spike in skipped else ''}"
        )

    def _stop(self, why: str) -> NoReturn:
        raise TrainingError(f"step {self.step + 1}: {why}; {self.kept}")

    # ---- states --------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state, unless it is in the folder. Raises WriteError; then what is there
        stays."""
        if self.saved == self.step:
            return
        if self.clock is not None:
            self.history.spent = self.clock.spent
        state = {
            "position": dataclasses.asdict(self.position),
            "config": self.config.to_dict(),
            "recipe": self.recipe.to_dict(),
            "ahead": self.ahead.state_dict(),
            "spikes": self.detector.state_dict(),
            "history": dataclasses.asdict(self.history),
            "rng": torch.get_rng_state(),
        }
        self.checkpoints.save(self.step, state, self.trainer)
        self.saved = self.step

    def _restore(self, state: dict[str, Any]) -> None:
        restore(state, self.trainer.model, self.trainer.optimizers, self.whole)
        self.position = Position(**state["position"])
        self.history = History(**state["history"])
        self.ahead.load_state_dict(state["ahead"], self.position)
        self.detector.load_state_dict(state["spikes"])
        torch.set_rng_state(state["rng"])

    def _begin(self) -> None:
        self.position = Position()
        self.trainer.begin()
        self.detector = SpikeDetector(self.recipe.stability)
        self.ahead.load_state_dict(self._beginning, self.position)


def _is_dense(stage: Stage) -> bool:
    """Whether CSA layers attend to every entry."""
    return stage.attention != "sparse"
