"""From minutes to a run: shape, tokens, batch and learning rate, by a rule.

tokens = measured operations a second · seconds / operations a token
shape  = the widest of WIDTHS that then sees TOKENS_A_PARAMETER for each parameter that it activates
batch  = 0.2920 · C^0.3271 tokens,  rate = 0.3118 · C^−0.1250,  C = operations of the whole run

The tokens are Chinchilla's 20 a parameter, more of them the sparser the experts are, since a token
then trains a smaller share of the weights; batch and rate are the laws of DeepSeek LLM (2024).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

from dsv4.config import Config
from dsv4.train.clock import work_left
from dsv4.train.data import Batch
from dsv4.train.flops import active_parameters, flops_per_token
from dsv4.train.recipe import Recipe, Stage
from dsv4.train.schedule import Plan, Position
from dsv4.train.step import Trainer

WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
TOKENS_A_PARAMETER = ((1, 20), (4, 25), (8, 30), (16, 35), (32, 40))  # experts / chosen: at least
SEQ_LEN, MEASURED = 256, 2048  # tokens of a row; of a step that is timed
STEPS = 3  # of which the first is not timed


def shape(width: int) -> dict[str, Any]:
    """The fields of a model of that width, in nano's proportions."""
    layers = 4 + 2 * max(0, width // 128 - 1)
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(2, width // 128 * 2),
        "q_lora_rank": max(64, width // 2),
        "o_lora_rank": max(64, width // 2),
        "moe_intermediate_size": max(64, width // 2),
        "compress_ratios": [0, 0, *[(4, 128)[n % 2] for n in range(layers - 2)], 0],
    }


def tokens_a_parameter(config: Config) -> int:
    """Tokens for each activated parameter."""
    sparsity = config.n_routed_experts / config.num_experts_per_tok
    return max(count for least, count in TOKENS_A_PARAMETER if sparsity >= least)


def dialled(minutes: float, seed: int, say: Callable[[str], None]) -> Recipe:
    """The recipe for so many minutes on this machine. `say` is told how it was chosen."""
    chosen: tuple[Recipe, float] | None = None
    for width in WIDTHS:
        recipe = _recipe(shape(width), MEASURED * STEPS, MEASURED, 1e-3, seed)
        config = recipe.model_config
        speed = measured_speed(recipe)
        tokens = minutes * 60 * speed / flops_per_token(config, SEQ_LEN)
        enough = tokens_a_parameter(config) * active_parameters(config)
        say(
            f"width {width}: {active_parameters(config):,} active parameters, "
            f"{speed / 1e9:,.1f} GFLOP/s: {tokens:,.0f} tokens, {enough:,} are called for"
        )
        if tokens < enough and chosen is not None:
            break
        chosen = recipe, tokens
        if tokens < enough:
            break
    assert chosen is not None
    recipe, tokens = chosen
    work = tokens * flops_per_token(recipe.model_config, SEQ_LEN)
    batch = max(1, round(0.2920 * work**0.3271 / SEQ_LEN)) * SEQ_LEN
    lr = float(f"{0.3118 * work**-0.1250:.2g}")
    whole = max(1, round(tokens / batch)) * batch
    chosen_by_rule = dataclasses.replace(
        _recipe(recipe.config, whole, batch, lr, seed), minutes=minutes
    )
    say(
        f"chosen: width {recipe.model_config.hidden_size}, {whole:,} tokens, {batch:,} a step, "
        f"learning rate {lr:g}, {work:.1e} FLOP"
    )
    return chosen_by_rule


def timed(recipe: Recipe, minutes: float) -> Recipe:
    """The recipe with its stages stretched to what fits into so many minutes here, and a warm-up of
    at most a tenth of its steps. What is said here is corrected as it runs (train/clock.py)."""
    plan, config = Plan(recipe), recipe.model_config
    work = work_left(plan, config, Position())
    share = minutes * 60 * measured_speed(recipe) / work
    least = plan.stages[0].batch_tokens
    tokens = max(least, round(share * plan.tokens / least) * least)
    warmup = max(1, min(recipe.warmup, tokens // least // 10))
    return dataclasses.replace(recipe, tokens=tokens, minutes=minutes, warmup=warmup)


def measured_speed(recipe: Recipe) -> float:
    """The model's operations a second in a recipe's first stage, evaluations between included."""
    plan = Plan(recipe)
    how = plan.step(Position())
    config, trainer = recipe.model_config, Trainer(recipe.model_config, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    size = (how.rows, how.stage.seq_len + 2)
    wide = torch.randint(config.vocab_size, size, generator=generator)
    batch = Batch(wide[:, :-2], wide[:, 1:-1], wide[:, 1:-1], wide[:, 2:])
    seconds = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        trainer.step(batch, how)
        seconds.append(time.perf_counter() - begun)
    rate = (STEPS - 1) * how.tokens / sum(seconds[1:])
    # a token that is evaluated costs a third of one that is trained on
    evaluated = recipe.evaluate_tokens / 3 / (recipe.evaluate_every * how.stage.batch_tokens)
    return rate * flops_per_token(config, how.stage.seq_len, dense=how.dense) / (1 + evaluated)


def _recipe(config: Any, tokens: int, batch: int, lr: float, seed: int) -> Recipe:
    stage = Stage(tokens=tokens, seq_len=SEQ_LEN, batch_tokens=batch)
    recipe = Recipe(name="minutes", config=config, stages=(stage,), lr=lr, seed=seed)
    warmup = max(1, min(recipe.warmup, tokens // batch // 10))
    return dataclasses.replace(recipe, micro_tokens=4 * MEASURED, warmup=warmup)
