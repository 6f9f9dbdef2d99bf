"""A model over a mesh: experts spread, weights sharded by FSDP2, gradients summed.

Losses are parts that sum to the batch's, so gradients are summed, never averaged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from dsv4.config import Config
from dsv4.model.block import Block
from dsv4.model.transformer import Transformer
from dsv4.train.optim import local, optimizers
from dsv4.train.parallel.collectives import tie
from dsv4.train.parallel.columns import LayerNeighbours
from dsv4.train.parallel.experts import SpreadExperts
from dsv4.train.parallel.mesh import Mesh


def parallelise(model: Transformer, mesh: Mesh) -> None:
    """Divide a model that every process has whole, and equal. The MTP block is gathered with the
    embedding and the head, which are used outside a block's forward as it is."""
    blocks: list[Any] = [*model.layers, *model.mtp]
    for block in blocks:
        block.register_forward_hook(_tied)
        if mesh.sizes.ep > 1:
            block.ffn.experts = SpreadExperts(block.ffn.experts, mesh.experts["ep"].get_group())
            fully_shard(block.ffn.experts, mesh=mesh.experts["replica"])
    for layer in model.layers:
        fully_shard(layer, mesh=mesh.all)
    fully_shard(model, mesh=mesh.all, reshard_after_forward=False)
    register_fsdp_forward_method(model, "streams")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _tied(block: Block, arguments: tuple[Any, ...], streams: Tensor) -> Tensor:
    """The streams after a layer, on which all depends that another process may wait for: what came
    from neighbours, and gradients of parameters that rows of short documents do not use."""
    if not torch.is_grad_enabled():
        return streams
    state, study = arguments[3:5]
    others: list[Tensor] = list(sometimes_used(block, index=study is not None and study.index))
    if isinstance(state, LayerNeighbours):
        others += state.tied
        state.tied.clear()
    return tie(streams, others)


def sometimes_used(block: Block, *, index: bool) -> Iterable[nn.Parameter]:
    """The parameters that have no gradient where no block of a document closes."""
    if block.attn.compressor is not None:
        yield from block.attn.compressor.parameters()
    if block.attn.indexer is not None and index:
        yield from block.attn.indexer.parameters()


@torch.no_grad()
def gradient_norm(model: Transformer, mesh: Mesh) -> Tensor:
    """√Σ g² over all processes. A gradient that `tie` alone made, zero in every process, is no
    gradient: it is taken away, as one process would not have it."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norms = [torch.linalg.vector_norm(local(p.grad)) for p in parameters if p.grad is not None]
    squares = mesh.over_all(torch.stack(norms).double().square())
    blocks: list[Any] = [*model.layers, *model.mtp]
    tied = {id(p) for block in blocks for p in sometimes_used(block, index=True)}
    for parameter, square in zip(parameters, squares.tolist(), strict=True):
        if id(parameter) in tied and square == 0:
            parameter.grad = None
    return squares.sum().sqrt().float()


@torch.no_grad()
def clip_gradients(model: nn.Module, limit: float, norm: Tensor) -> None:
    """Scale the gradients so that their norm, which is `norm`, is at most `limit`."""
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in model.parameters():
        if parameter.grad is not None:
            local(parameter.grad).mul_(scale)


def sharded_optimizers(
    model: Transformer, config: Config, mesh: Mesh, *, lr: float, weight_decay: float = 0.1
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over the shards."""
    from dsv4.train.parallel.owners import Owners

    group = mesh.all.get_group()
    return optimizers(
        model,
        config,
        lr=lr,
        weight_decay=weight_decay,
        spread=lambda named: Owners(named, config, mesh.sizes, mesh.number, group),
    )
