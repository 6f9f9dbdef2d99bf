"""The training loop: packed batch → forward → losses → clip → Muon and AdamW → balance bias.

Everything that a step needs follows from (settings, step), and `state.pt` holds weights, optimizer
state and the step: a run that was stopped and resumed gives the numbers of one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from dsv4.config import Config
from dsv4.interrupt import interruptible
from dsv4.model.transformer import Transformer
from dsv4.train.data import Batch, PackedRows
from dsv4.train.loss import balance_loss, linear_cross_entropy, losses, update_bias
from dsv4.train.optim import optimizers
from dsv4.train.schedule import Schedule
from dsv4.train.settings import Settings


class TrainingError(ValueError):
    """Training cannot go on: the message says why, and what is saved."""


NOTICE = "\nfinishing this step; Ctrl-C again stops at once\n"
TIMED_STEPS = 5  # of which the last ones tell how many fit into the minutes


class Run:
    """A model in training, in a folder that holds its state and its metrics."""

    def __init__(self, config: Config, settings: Settings, data: Path, out: Path):
        self.config, self.settings, self.out = config, settings, out
        self.rows = PackedRows(
            data / "train.npy", settings.seq_len, config.eos_token_id, settings.seed
        )
        self.held_out = PackedRows(
            data / "validation.npy", settings.seq_len, config.eos_token_id, settings.seed
        )
        counts = json.loads((data / "tokens.json").read_text(encoding="utf-8"))["validation"]
        self.bytes_per_token = counts["bytes"] / counts["tokens"]
        self.model = Transformer(config)
        self.model.initialize(settings.seed)
        self.optimizers = optimizers(
            self.model, config, lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.step, self.steps = 0, settings.steps

    @property
    def state_file(self) -> Path:
        """Where the state of the run is kept."""
        return self.out / "state.pt"

    def save(self) -> None:
        """Write the state; a file that is there is replaced only by a whole one."""
        state = {
            "step": self.step,
            "steps": self.steps,
            "config": self.config.to_dict(),
            "settings": dataclasses.asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / ".state.pt"
        torch.save(state, temporary)
        temporary.replace(self.state_file)

    def resume(self) -> None:
        """Continue from the folder's state. Raises TrainingError if it is another run's."""
        if not self.state_file.is_file():
            raise TrainingError(f"there is no {self.state_file}: start without --resume")
        state = torch.load(self.state_file, weights_only=True)
        if state["config"] != json.loads(self.config.to_json()) or state[
            "settings"
        ] != dataclasses.asdict(self.settings):
            raise TrainingError(
                f"{self.state_file} was made with another configuration or other settings: "
                f"repeat them ({state['settings']}), or train into another folder"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.steps = state["step"], state["steps"]

    def train(self) -> bool:
        """Run to the last step, or until interrupted; returns whether it came to the end."""
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
                self._report(metrics)
                if interrupted or self.step % self.settings.save_every == 0:
                    self.save()
                if interrupted:
                    print(f"stopped after step {self.step}; go on with --resume", flush=True)
                    return False
        self.save()
        return True

    def train_step(self) -> dict[str, float]:
        """One optimizer step; raises TrainingError, before weights change, if the loss is NaN."""
        settings = self.settings
        schedule = Schedule(settings.lr, self.steps or 10**9, settings.warmup, decay=settings.decay)
        lr, mtp_weight = schedule.lr(self.step), schedule.mtp_weight(self.step)
        batch = self.rows.batch(self.step, settings.batch)
        self.model.train()
        loss, mtp = losses(self.model, batch)
        total = loss + balance_loss(self.model, settings.batch)
        total = total if mtp is None else total + mtp_weight * mtp
        if not math.isfinite(total.item()):
            raise TrainingError(
                f"the loss of step {self.step} is {total.item()}: lower --lr; the last saved state "
                f"is {self.state_file}"
            )
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_bias(self.model)
        self.step += 1
        metrics = {"step": self.step, "loss": loss.item(), "lr": lr, "norm": norm.item()}
        return metrics if mtp is None else metrics | {"mtp_loss": mtp.item()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss on held-out documents, in nats a token and in bits a byte of text."""
        self.model.eval()
        total = count = 0.0
        for batch in self.held_out.in_order(self.settings.batch):
            tokens = int((batch.targets >= 0).sum())
            total += _next_token_loss(self.model, batch).item() * tokens
            count += tokens
        loss = total / count
        return {
            "validation_loss": loss,
            "bits_per_byte": loss / math.log(2) / self.bytes_per_token,
        }

    def _tokens(self) -> int:
        return self.settings.batch * self.settings.seq_len

    def _report(self, metrics: dict[str, float]) -> None:
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        if self.step % 10 and "validation_loss" not in metrics:
            return
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
        print(line, flush=True)


def _next_token_loss(model: Transformer, batch: Batch) -> Tensor:
    hidden = model.collapse(model.streams(batch.ids)).flatten(0, 1)
    return linear_cross_entropy(hidden, model.head.weight, batch.targets.flatten())
