"""The training loop: packed batch → forward → losses → clip → Muon and AdamW → balance bias.

Everything that a step needs follows from (settings, step), and `state.pt` holds weights, optimizer
state and the step: a run that was stopped and resumed gives the numbers of one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from dsv4.config import Config
from dsv4.interrupt import interruptible
from dsv4.model.transformer import Transformer
from dsv4.train.data import Batch, DataError, PackedRows
from dsv4.train.loss import linear_cross_entropy, losses, update_bias
from dsv4.train.metrics import Metrics
from dsv4.train.optim import optimizers
from dsv4.train.schedule import Schedule
from dsv4.train.settings import Settings
from dsv4.train.state import TrainingError, restore, save_state

STATE_FILE, METRICS_FILE = "state.pt", "metrics.jsonl"
NOTICE = "\nfinishing this step; Ctrl-C again stops at once\n"
TIMED_STEPS = 5  # of which the last ones tell how many fit into the minutes


class Run:
    """A model in training, in a folder that holds its state and its metrics.

    `state` is what `load_state` found to go on from; without one the run begins anew.
    Raises: DataError for data that cannot be trained on.
    """

    def __init__(
        self,
        config: Config,
        settings: Settings,
        data: Path,
        out: Path,
        state: dict[str, Any] | None = None,
    ):
        settings.check(config)
        self.config, self.settings, self.out = config, settings, out
        self.rows, self.held_out = (
            PackedRows(
                data,
                part,
                seq_len=settings.seq_len,
                eos=config.eos_token_id,
                seed=settings.seed,
                vocab=config.vocab_size,
            )
            for part in ("train", "validation")
        )
        self.bytes_per_token = self.held_out.bytes_per_token
        self.model = Transformer(config)
        self.model.initialize(settings.seed)
        self.optimizers = optimizers(
            self.model, config, lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.arrived: dict[
            str, Tensor
        ] = {}  # parameters in the order in which their gradients came
        for name, parameter in self.model.named_parameters():
            parameter.register_post_accumulate_grad_hook(partial(self._arrive, name))
        self.step, self.steps = 0, settings.steps
        self.saved: int | None = None  # the step whose state is in the file
        if state is not None:
            restore(state, self.model, self.optimizers)
            self.step, self.steps = state["step"], state["steps"]
            self.saved = self.step
        self.metrics = Metrics(out / METRICS_FILE, self.step)

    @property
    def state_file(self) -> Path:
        """Where the state of the run is kept."""
        return self.out / STATE_FILE

    @property
    def kept(self) -> str:
        """What a run that ends here leaves, and how to go on."""
        if self.saved is None:
            return "no state is saved yet: the same command begins anew"
        return f"the state after step {self.saved} is kept in {self.state_file}: --resume goes on"

    def save(self) -> None:
        """Write the state, unless it is in the file; a file that is there is replaced only by a
        whole one. Raises WriteError."""
        if self.saved == self.step:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "steps": self.steps,
            "config": self.config.to_dict(),
            "settings": dataclasses.asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        save_state(self.state_file, state)
        self.saved = self.step

    def train(self, say: Callable[[str], None] = print) -> bool:
        """Run to the last step, or until interrupted; returns whether it came to the end.
        `say` is given a line about every tenth step.

        Raises: TrainingError, WriteError; what is saved stays as it is.
        """
        clock: list[float] = []
        with interruptible(NOTICE) as interrupted:
            while not self.steps or self.step < self.steps:
                clock.append(time.perf_counter())
                if not self.steps and len(clock) > TIMED_STEPS:
                    each = (clock[-1] - clock[2]) / (len(clock) - 3)
                    self.steps = max(len(clock), int(self.settings.minutes * 60 / each))
                metrics = self.train_step()
                metrics["tokens_per_s"] = self._tokens() / (time.perf_counter() - clock[-1])
                due = self.step % self.settings.evaluate_every == 0 or self.step == self.steps
                if due:
                    metrics |= self.evaluate()
                self.metrics.append(metrics)
                if due or self.step % 10 == 0:
                    say(self._line(metrics))
                if interrupted or self.step % self.settings.save_every == 0:
                    self.save()
                if interrupted:
                    return False
        self.save()
        return True

    def train_step(self) -> dict[str, float]:
        """One optimizer step. Raises TrainingError, before a weight, moment or bias changes, if
        the loss or a gradient is not finite.
        """
        settings = self.settings
        schedule = Schedule(settings.lr, self.steps or 10**9, settings.warmup, decay=settings.decay)
        lr, mtp_weight = schedule.lr(self.step), schedule.mtp_weight(self.step)
        batch = self.rows.batch(self.step, settings.batch)
        self.model.train()
        found = losses(self.model, batch)
        loss, mtp = found.next_token, found.mtp
        total = loss + found.balance
        total = total if mtp is None else total + mtp_weight * mtp
        if not math.isfinite(total.item()):
            self._refuse(f"the loss is {total.item()}", "weights", self.model.state_dict())
        self.arrived.clear()
        total.backward()
        norm = self._gradient_norm()
        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), settings.clip, norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_bias(self.model, found.loads)
        self.step += 1
        metrics = {"step": self.step, "loss": loss.item(), "lr": lr, "norm": norm.item()}
        return metrics if mtp is None else metrics | {"mtp_loss": mtp.item()}

    def _gradient_norm(self) -> Tensor:
        """√Σ g², finite."""
        gradients = {name: p.grad for name, p in self.arrived.items() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        if not math.isfinite(norm.item()):
            self._refuse(f"the gradient's norm is {norm.item()}", "gradients", gradients)
        return norm

    def _arrive(self, name: str, parameter: Tensor) -> None:
        self.arrived[name] = parameter

    def _refuse(self, what: str, kind: str, tensors: Mapping[str, Tensor]) -> NoReturn:
        """Give up the step; the message names the first of `tensors` that is not finite."""
        self.model.zero_grad(set_to_none=True)
        broken = (name for name, tensor in tensors.items() if not tensor.isfinite().all())
        first = next(broken, None)
        where = f"all {kind} are finite" if first is None else f"first in the {kind} of {first}"
        raise TrainingError(
            f"step {self.step + 1}: {what}, {where}: nothing was changed; lower --lr; {self.kept}"
        )

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss on held-out documents, in nats a token and in bits a byte of text."""
        self.model.eval()
        total = count = 0.0
        for batch in self.held_out.in_order(self.settings.batch):
            tokens = int((batch.targets >= 0).sum())
            total += _next_token_loss(self.model, batch).item() * tokens
            count += tokens
        if not count:
            raise DataError(
                f"{self.held_out.folder} holds no held-out token after another: give more text"
            )
        loss = total / count
        if not math.isfinite(loss):
            self._refuse(f"the validation loss is {loss}", "weights", self.model.state_dict())
        return {
            "validation_loss": loss,
            "bits_per_byte": loss / math.log(2) / self.bytes_per_token,
        }

    def _tokens(self) -> int:
        return self.settings.batch * self.settings.seq_len

    def _line(self, metrics: dict[str, float]) -> str:
        left = (self.steps - self.step) * self._tokens() / metrics["tokens_per_s"]
        line = (
            f"step {self.step}/{self.steps or '?'}  loss {metrics['loss']:.3f}  "
            f"lr {metrics['lr']:.1e}  {metrics['tokens_per_s']:.0f} tokens/s"
        )
        if self.steps:
            line += f"  {left / 60:.0f} min left"
        if "validation_loss" in metrics:
            line += "  validation {validation_loss:.3f} ({bits_per_byte:.3f} bits/byte)".format(
                **metrics
            )
        return line


def _next_token_loss(model: Transformer, batch: Batch) -> Tensor:
    streams = model.streams(batch.ids, documents=batch.documents)
    hidden = model.collapse(streams).flatten(0, 1)
    return linear_cross_entropy(hidden, model.head.weight, batch.targets.flatten())
