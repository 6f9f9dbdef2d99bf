"""What a run would be, as text: its model, stages, parameter groups and memory; nothing is made."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dsv4.machine import machine_memory
from dsv4.model.transformer import Transformer
from dsv4.train.flops import active_parameters, flops_per_token
from dsv4.train.memory import F32, need, of_stage
from dsv4.train.optim import groups_table
from dsv4.train.parallel.sizes import Sizes
from dsv4.train.parallel.volume import Volume
from dsv4.train.recipe import Recipe
from dsv4.train.schedule import Plan, Step
from dsv4.train.step import micro_rows

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
    yield groups_table(model, config, recipe.optimizer)
    yield ""
    yield from mesh_table(recipe)
    found = need(recipe)
    parts = {
        "weights": found.weights,
        "gradients": found.gradients,
        "optimizer": found.optimizer,
        "activations": found.activations,
        "update": found.scratch,
    }
    each = "of a process " if Sizes.parse(recipe.mesh).processes > 1 else ""
    yield (
        f"memory {each}{found.total / GIB:,.1f} GiB of {machine_memory() / GIB:,.1f} here: "
        + ", ".join(f"{name} {nbytes / GIB:,.1f}" for name, nbytes in parts.items())
    )


def mesh_table(recipe: Recipe) -> Iterator[str]:
    """What one of the processes holds, and for each stage what it moves in a step."""
    sizes, config = Sizes.parse(recipe.mesh), recipe.model_config
    if sizes.processes == 1:
        return
    volume = Volume(config, sizes, recipe.optimizer)
    held = vars(volume.held())
    yield f"mesh {sizes}, {sizes.processes} processes; GiB that the fullest one holds"
    yield "  " + "".join(f"{name:>12}" for name in (*held, "total"))
    yield "  " + "".join(f"{n / GIB:12,.3f}" for n in (*held.values(), sum(held.values())))
    yield "GiB that one moves in a step (gathered: weights; scattered: gradients), and activations"
    names = ["rows", "pieces", "gathered", "scattered", "experts", "columns", "muon", "total"]
    names.append("activations")
    yield "  stage" + "".join(f"{name:>12}" for name in names)
    for number, stage in enumerate(Plan(recipe).stages):
        rows = max(1, stage.batch_tokens // stage.seq_len)
        micros = -(-rows // micro_rows(recipe, rows, stage.seq_len))
        learns = stage.attention != "dense"
        moved = volume.moved(
            rows, stage.seq_len, micros=micros, index=learns, recompute=recipe.recompute
        )
        sums = [*vars(moved).values()]
        sums += [sum(sums), F32 * of_stage(recipe, stage)]
        numbers = "".join(f"{n / GIB:12,.3f}" for n in sums)
        yield f"  {number:<5}{rows:12,}{micros:12,}{numbers}"
    if recipe.optimizer == "muon":
        yield f"the busiest owner orthogonalises {volume.balance():.2f} of the mean"
    yield ""


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
