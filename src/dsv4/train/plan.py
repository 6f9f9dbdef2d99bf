"""What a run would be, as text: its model, stages, parameter groups and memory; nothing is made."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dsv4.machine import machine_memory
from dsv4.model.transformer import Transformer
from dsv4.train.flops import active_parameters, flops_per_token
from dsv4.train.memory import need
from dsv4.train.optim import groups_table
from dsv4.train.recipe import Recipe
from dsv4.train.schedule import Plan, Step

GIB = 2**30


def described(recipe: Recipe) -> Iterator[str]:
    """The lines of a plan."""
    config, plan = recipe.model_config, Plan(recipe)
    with torch.device("meta"):
        model = Transformer(config)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    active = active_parameters(config)
    yield f"{recipe.name}: {recipe.model}, {numbers:,} parameters, {active:,} of the layers active"
    yield f"{plan.tokens:,} tokens, {recipe.precision}, mesh {recipe.mesh}"
    yield ""
    yield from stages_table(recipe)
    yield ""
    yield groups_table(model, config)
    yield ""
    found = need(recipe)
    parts = {
        "weights": found.weights,
        "gradients": found.gradients,
        "optimizer": found.optimizer,
        "activations": found.activations,
        "update": found.scratch,
    }
    yield (
        f"memory {found.total / GIB:,.1f} GiB of {machine_memory() / GIB:,.1f} here: "
        + ", ".join(f"{name} {nbytes / GIB:,.1f}" for name, nbytes in parts.items())
    )


def stages_table(recipe: Recipe) -> Iterator[str]:
    """A line for each stage: steps, tokens, rows, rates, operations."""
    plan, config = Plan(recipe), recipe.model_config
    found: dict[int, list[Step]] = {}
    for _, step in plan.steps():
        ends = found.setdefault(step.stage_number, [step, step, step])
        ends[1], ends[2] = step, max(ends[2], step, key=lambda one: one.rows)
    yield "stage  attention  seq_len      steps             tokens  tokens a step  learning rate"
    for number, (first, last, widest) in found.items():
        stage = plan.stages[number]
        steps = last.number - first.number + 1
        flops = flops_per_token(config, stage.seq_len, dense=first.dense) * stage.tokens
        yield (
            f"{number:<5}  {stage.attention:9}  {stage.seq_len:>7,}  {steps:>9,}  "
            f"{stage.tokens:>17,}  {widest.tokens:>13,}  {first.lr:.1e} → {last.lr:.1e}  "
            f"{flops:.1e} FLOP"
        )
