"""One optimizer step: micro-batches → one gradient → its norm, clipped → Muon and AdamW → bias.

A batch in pieces has the gradient of the whole one: each term is a mean over a batch, so a piece's
is weighted by its share of what the whole batch counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from dsv4.config import Config, LayerKind
from dsv4.model.precision import TRAINING
from dsv4.train.data import IGNORE, Batch
from dsv4.train.loss import Losses, losses, update_bias
from dsv4.train.optim import clip_gradients
from dsv4.train.parallel.sizes import Sizes
from dsv4.train.recipe import Recipe
from dsv4.train.schedule import Step
from dsv4.train.whole import WHOLE, Whole

Chosen = Sequence[Sequence[Tensor]]  # of each micro-batch and layer: experts int64 [tokens, k]


class NotFinite(ValueError):  # noqa: N818 it is what the step was
    """A step that changed nothing: its loss or its gradients are not finite."""


@dataclass(frozen=True)
class Counts:
    """What the means of a batch's terms are taken over."""

    next_token: int  # targets
    mtp: int
    rows: int
    index: int  # queries that see an entry of a CSA layer

    @classmethod
    def of(cls, batch: Batch, config: Config) -> Counts:
        """The counts of a batch."""
        rows, columns = batch.ids.shape
        pairs = zip(config.compress_ratios, config.layer_kinds, strict=False)
        ratio = next((ratio for ratio, kind in pairs if kind is LayerKind.CSA), columns + 1)
        documents = batch.documents or [[columns]] * rows
        return cls(
            int((batch.targets != IGNORE).sum()),
            int((batch.mtp_targets != IGNORE).sum()),
            rows,
            sum(max(0, length - ratio + 1) for row in documents for length in row),
        )


class Trainer:
    """A model, its optimizers, and the step that moves it."""

    def __init__(self, config: Config, recipe: Recipe, whole: Whole = WHOLE):
        self.config, self.recipe, self.whole = config, recipe, whole
        self.model = whole.model(config, TRAINING[recipe.precision])
        self.model.recompute = recipe.recompute
        self.begin()
        self._arrived: dict[str, Tensor] = {}  # parameters in the order of their gradients
        for name, parameter in self.model.named_parameters():
            parameter.register_post_accumulate_grad_hook(partial(self._arrive, name))

    def begin(self) -> None:
        """Initial weights, and optimizers that have seen nothing."""
        self.whole.initialize(self.model, self.recipe.seed)
        own = self.recipe
        self.optimizers = self.whole.optimizers(
            self.model, lr=own.lr, weight_decay=own.weight_decay, rule=own.optimizer
        )

    def step(
        self, batch: Batch, how: Step, experts: Chosen | None = None
    ) -> tuple[dict[str, float], Tensor]:
        """Move the weights; returns the terms and the routers' loads [gates, E].

        Raises NotFinite before a weight, moment or bias changes.
        """
        self.whole.settle(self.model)
        self._freeze(how)
        self.model.train()
        self._arrived.clear()
        found, loads = self._accumulate(batch, how, experts)
        norm = self._gradient_norm()
        clip_gradients(self.model, self.recipe.clip, norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = how.lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if not how.indexer_only:
            update_bias(self.model, loads, self.recipe.bias_step)
        return found | {"norm": norm.item()}, loads

    @torch.no_grad()
    def route(self, batch: Batch, how: Step) -> Chosen:
        """The experts that the weights of now choose for a batch."""
        self.model.eval()  # nothing in it depends on it: there is no dropout
        chosen = []
        for micro in self._micros(batch, how):
            part = self.whole.part(micro)
            past = self.whole.past(self.model, part.first)
            studies = self.model.new_studies(dense=how.dense)
            streams = self.model.streams(
                part.ids, documents=part.documents, studies=studies, past=past
            )
            if self.model.mtp:
                self.model.draft_streams(
                    streams,
                    part.next_ids,
                    documents=part.documents,
                    study=studies[-1],
                    past=past,
                )
            found = [study.indices for study in studies if study.indices is not None]
            chosen.append([self.whole.chosen(micro, experts) for experts in found])
        return chosen

    def _accumulate(
        self, batch: Batch, how: Step, experts: Chosen | None
    ) -> tuple[dict[str, float], Tensor]:
        whole = Counts.of(batch, self.config)
        sums: dict[str, float] = {}
        loads: list[Tensor] = []
        for number, micro in enumerate(self._micros(batch, how)):
            chosen = None if experts is None else experts[number]
            part = losses(
                self.model,
                self.whole.part(micro),
                dense=how.dense,
                index=how.stage.attention != "dense",
                experts=chosen and [self.whole.told(micro, each) for each in chosen],
                alpha=self.recipe.balance,
                whole=self.whole,
            )
            found = part.over_all(self.whole)
            own = Counts.of(micro, self.config)
            terms = _shares(found, own, whole)
            loss = _total(terms, how).item()
            if not math.isfinite(loss):
                self._refuse(f"the loss is {loss}", "weights", self.model.state_dict())
            total = self.whole.bound(_total(_shares(part, own, whole), how), part.next_token)
            if total.requires_grad:  # not where an indexer alone learns and sees nothing
                total.backward()
            loads.append(found.loads)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.item()
        return sums, torch.stack(loads).sum(0)

    def _micros(self, batch: Batch, how: Step) -> Iterator[Batch]:
        """A batch in pieces of whole rows, at most `micro_tokens` each."""
        return split(batch, micro_rows(self.recipe, how.rows, how.stage.seq_len))

    def _freeze(self, how: Step) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not how.indexer_only or ".indexer." in name)

    def _gradient_norm(self) -> Tensor:
        """√Σ g², finite."""
        gradients = {name: p.grad for name, p in self._arrived.items() if p.grad is not None}
        norm = self.whole.norm(self.model, gradients)
        if not math.isfinite(norm.item()):
            self._refuse(f"the gradient's norm is {norm.item()}", "gradients", gradients)
        return norm

    def _arrive(self, name: str, parameter: Tensor) -> None:
        self._arrived.setdefault(name, parameter)

    def _refuse(self, what: str, kind: str, tensors: Mapping[str, Tensor]) -> NoReturn:
        """Give up the step; the message names the first of `tensors` that is not finite."""
        self.model.zero_grad(set_to_none=True)
        raise NotFinite(f"{what}, {first_broken(kind, tensors, self.whole)}")


def first_broken(kind: str, tensors: Mapping[str, Tensor], whole: Whole = WHOLE) -> str:
    """Where something that is not finite comes from."""
    first = whole.broken(tensors)
    return f"all {kind} are finite" if first is None else f"first in the {kind} of {first}"


def micro_rows(recipe: Recipe, rows: int, seq_len: int) -> int:
    """Rows that go through the model at once, in all processes together."""
    sizes = Sizes.parse(recipe.mesh)
    at_once = sizes.dp * max(1, recipe.micro_tokens * sizes.cp // seq_len)
    return min(rows, at_once) if recipe.micro_tokens else rows


def split(batch: Batch, rows: int) -> Iterator[Batch]:
    """The batch in pieces of so many rows."""
    for first in range(0, batch.ids.shape[0], rows):
        part = slice(first, first + rows)
        yield Batch(
            batch.ids[part],
            batch.next_ids[part],
            batch.targets[part],
            batch.mtp_targets[part],
            None if batch.documents is None else batch.documents[part],
        )


def _shares(found: Losses, own: Counts, whole: Counts) -> dict[str, Tensor]:
    """The terms of a micro-batch, by their share of the whole batch's means."""
    terms = {
        "loss": (found.next_token, own.next_token, whole.next_token),
        "mtp_loss": (found.mtp, own.mtp, whole.mtp),
        "balance": (found.balance, own.rows, whole.rows),
        "index_kl": (found.index, own.index, whole.index),
        "index_recall": (found.recall, own.index, whole.index),
    }
    return {
        name: term * (count / max(1, of))
        for name, (term, count, of) in terms.items()
        if term is not None
    }


def _total(terms: Mapping[str, Tensor], how: Step) -> Tensor:
    """What is minimised. The indexer's loss trains it alone: the rest has no gradient in it."""
    if how.indexer_only:
        return terms["index_kl"]
    total = terms["loss"] + terms["balance"]
    if "mtp_loss" in terms:
        total = total + how.mtp_weight * terms["mtp_loss"]
    return total + terms["index_kl"] if "index_kl" in terms else total
