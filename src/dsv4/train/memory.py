"""What a training run needs of memory, from its recipe alone: no tensor is made.

kept = weights + gradients + Muon's momentum (matrices) + AdamW's two moments (the rest), float32
need = kept + buffers + the larger of (activations + backward's own) and the optimizer's scratch
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass

from dsv4.checkpoint.layout import Role, weights
from dsv4.config import Config, LayerKind
from dsv4.machine import machine_memory
from dsv4.model.span import QUERY_BLOCK
from dsv4.ops.native import trainer
from dsv4.train.loss import CHUNK
from dsv4.train.optim import takes_muon
from dsv4.train.parallel.sizes import Sizes
from dsv4.train.parallel.volume import Held, Volume
from dsv4.train.recipe import Recipe, Stage
from dsv4.train.step import micro_rows

F32 = 4
LIBRARIES = 400 << 20  # Python, torch and their tables


@dataclass(frozen=True)
class Need:
    """Bytes by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    scratch: int

    @property
    def total(self) -> int:
        """Bytes at the highest moment of a step."""
        return LIBRARIES + self.kept + self.transient

    @property
    def kept(self) -> int:
        """Bytes held from step to step."""
        return self.weights + self.gradients + self.optimizer

    @property
    def transient(self) -> int:
        """Bytes of the forward and backward, or of the update after them."""
        return max(self.activations, self.scratch)


def need(recipe: Recipe) -> Need:
    """What one step of a run holds at once, in the stage that holds the most; in each process."""
    config, sizes = recipe.model_config, Sizes.parse(recipe.mesh)
    if sizes.processes > 1:
        return _share(recipe, Volume(config, sizes, recipe.optimizer).held())
    matrices: Counter[tuple[int, ...]] = Counter()
    rest = buffers = 0
    for name, weight in weights(config).items():
        size = math.prod(weight.shape)
        if weight.role is Role.INDEX or name.endswith("gate.bias"):
            buffers += size * (8 if weight.role is Role.INDEX else F32)
        elif recipe.optimizer == "muon" and takes_muon(name, len(weight.shape)):
            matrices[weight.shape] += size
        else:
            rest += size
    muon = matrices.total()
    together = max(matrices.values(), default=0)  # numbers of one shape, orthogonalised at once
    return Need(
        weights=F32 * (muon + rest) + buffers,
        gradients=F32 * (muon + rest),
        optimizer=F32 * (muon + 2 * rest),
        activations=F32 * max(of_stage(recipe, stage) for stage in recipe.stages),
        scratch=F32
        * (muon + 4 * together),  # updates; stacked, scaled, in bfloat16, and the result
    )


def _share(recipe: Recipe, held: Held) -> Need:
    """What one process of several needs."""
    return Need(
        weights=held.weights + held.buffers,
        gradients=held.gradients,
        optimizer=held.muon + held.adamw,
        activations=held.gathered + F32 * max(of_stage(recipe, each) for each in recipe.stages),
        scratch=3 * held.muon,  # updates, slices that leave, matrices that are owned
    )


def of_stage(recipe: Recipe, stage: Stage) -> int:
    """Numbers that a process keeps for the backward of a stage, and its batch."""
    sizes = Sizes.parse(recipe.mesh)
    rows = micro_rows(recipe, max(1, stage.batch_tokens // stage.seq_len), stage.seq_len)
    kept = activations(
        recipe.model_config,
        -(-rows // sizes.dp),
        stage.seq_len,
        recompute=recipe.recompute,
        dense=stage.attention != "sparse",
    )
    whole = max(1, stage.batch_tokens // stage.seq_len) * stage.seq_len
    batch = 4 * 2 * whole  # ids and targets, int64
    return kept // sizes.cp + batch


def activations(
    config: Config, rows: int, seq_len: int, *, recompute: bool = False, dense: bool = False
) -> int:
    """Numbers that the forward keeps for the backward, and the largest that the backward makes.
    With `recompute` a layer keeps its streams, and one layer at a time all that it needs."""
    c, tokens = config, rows * seq_len
    layers = [_layer(c, kind, seq_len, dense) for kind in c.layer_kinds]
    drafts = c.num_nextn_predict_layers
    sliding = _layer(c, LayerKind.SLIDING, seq_len, dense)
    streams = c.hc_mult * c.hidden_size
    most = max(*layers, sliding)
    if recompute:
        layers, sliding, most = [streams] * len(layers), streams, 2 * most
    losses = (1 + drafts) * (5 * c.hidden_size + streams)
    draft = drafts * (sliding + 3 * streams)
    chunk = 2 * min(CHUNK, tokens) * c.vocab_size  # logits and their slope
    heads = drafts * c.vocab_size * c.hidden_size  # the head's gradient, once more for the draft
    return tokens * (sum(layers) + draft + losses + most) + chunk + heads


def _layer(c: Config, kind: LayerKind, n: int, dense: bool) -> int:
    """Numbers a token in one layer on rows of n tokens."""
    d, hc, channels = c.hidden_size, c.hc_mult, c.head_dim
    native = trainer() is not None
    iterations = 0 if native else 4 * c.hc_sinkhorn_iters  # made again by the native backward
    hyper = 2 * ((1 if native else 2) * hc * d + 2 * d + hc * hc * (iterations + 6))
    kinds = zip(c.compress_ratios, c.layer_kinds, strict=False)
    ratio = next((r for r, k in kinds if k is kind), 0)
    keys = min(n, c.sliding_window + QUERY_BLOCK)
    entries = n // ratio if ratio else 0
    attention = 3 * c.num_attention_heads * channels + 2 * c.q_lora_rank + 3 * channels
    attention += c.o_groups * c.o_lora_rank
    if kind is LayerKind.CSA:
        if not dense and entries > c.index_topk:  # each query's own entries: gathered, or named
            attention += c.index_topk * (2 if native else channels)
        attention += 6 * channels + 4 * c.index_n_heads * c.index_head_dim
        attention += entries * (c.index_n_heads + 4)  # scores, compared with attention
        entries = entries if dense else min(entries, c.index_topk)
    elif kind is LayerKind.HCA:
        attention += 4 * channels
    attention += c.num_attention_heads * (1 if native else keys + entries)
    k, i = c.num_experts_per_tok, c.moe_intermediate_size
    routed = k * (2 * i + 7) + d if native else k * (2 * d + 5 * i + 7)
    experts = routed + 6 * i + d + 2 * c.n_routed_experts
    return hyper + attention + experts


def check_memory(recipe: Recipe) -> None:
    """Raises ValueError, in one line, if the machine has less memory than the run needs."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of torchrun on this machine
    found, have = need(recipe), machine_memory() // here
    if found.total <= have:
        return
    parts = {
        "weights": found.weights,
        "gradients": found.gradients,
        "optimizer": found.optimizer,
        "activations" if found.activations > found.scratch else "update": found.transient,
    }
    listed = ", ".join(f"{name} {_gib(nbytes)}" for name, nbytes in parts.items())
    fits = found.kept + found.scratch < have
    remedy = "micro_tokens or seq_len, or set recompute" if fits else "model"
    raise ValueError(
        f"training needs {_gib(found.total)} GiB of memory ({listed}), this machine has "
        f"{_gib(have)}{' for each process' if here > 1 else ''}: choose a smaller {remedy}"
    )


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:,.1f}"
