"""A model over a mesh: experts spread, weights sharded by FSDP2, gradients summed.

Losses are parts that sum to the batch's, so gradients are summed, never averaged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from dsv4.model.attention import frequencies
from dsv4.model.block import Block
from dsv4.model.initial import initial
from dsv4.model.transformer import Transformer
from dsv4.train.optim import local
from dsv4.train.parallel.collectives import all_gather, tie
from dsv4.train.parallel.columns import LayerNeighbours
from dsv4.train.parallel.experts import SpreadExperts
from dsv4.train.parallel.owners import shard

if TYPE_CHECKING:
    from dsv4.train.parallel.mesh import Mesh


def blocks_of(model: Transformer) -> list[Any]:
    """The layers, and the MTP block."""
    return [*model.layers, *model.mtp]


def parallelise(model: Transformer, mesh: Mesh) -> None:
    """Divide a model. The MTP block is gathered with the embedding and the head, which are used
    outside a block's forward as it is."""
    # it warns that streams are views, which only matters to who changes them in place: nobody does
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    for block in blocks_of(model):
        block.register_forward_hook(_tied)
        if mesh.sizes.ep > 1:
            block.ffn.experts = SpreadExperts(block.ffn.experts, mesh.expert_group)
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
    tied = {id(p) for block in blocks_of(model) for p in sometimes_used(block, index=True)}
    for parameter, square in zip(parameters, squares.tolist(), strict=True):
        if id(parameter) in tied and square == 0:
            parameter.grad = None
    return squares.sum().sqrt().float()


# ---- whole tensors and this process's shards of them ------------------------------------------


def is_spread(name: str, mesh: Mesh) -> bool:
    """Whether a tensor of the state is of experts that lie with several processes."""
    return mesh.sizes.ep > 1 and ".ffn.experts." in name


def whole_shape(name: str, tensor: Tensor, mesh: Mesh) -> torch.Size:
    """The shape that a tensor of the state has in one process."""
    first = tensor.shape[0] * mesh.sizes.ep if is_spread(name, mesh) else tensor.shape[0]
    return torch.Size([first, *tensor.shape[1:]])


@torch.no_grad()
def keep_own(name: str, tensor: Tensor, whole: Tensor, mesh: Mesh) -> None:
    """Give a tensor of the state what is its own of a whole one."""
    if not isinstance(tensor, DTensor):
        tensor.copy_(whole)
        return
    ways, number = mesh.sizes.processes, mesh.number
    if is_spread(name, mesh):
        number, part = divmod(mesh.number, mesh.sizes.ep)
        whole, ways = whole.chunk(mesh.sizes.ep)[part], mesh.sizes.replicas
    rows = shard(len(whole), ways, number)
    tensor.to_local().copy_(whole[rows.start : rows.stop])


@torch.no_grad()
def whole_tensor(name: str, tensor: Tensor, mesh: Mesh) -> Tensor:
    """The reverse: gathered from all."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    if not is_spread(name, mesh):
        return whole
    parts = whole.new_empty(whole_shape(name, tensor, mesh))
    all_gather(parts, whole, mesh.expert_group)
    return parts


def as_global(name: str, tensor: Tensor, mesh: Mesh) -> Tensor:
    """The same numbers as a shard of what one process has, as saved states know it."""
    if not isinstance(tensor, DTensor) or not is_spread(name, mesh):
        return tensor
    shape = whole_shape(name, tensor, mesh)
    stride = torch.empty(shape, device="meta").stride()
    held = tensor.to_local().detach()
    return DTensor.from_local(
        held, mesh.experts, [Shard(0), Shard(0)], run_check=False, shape=shape, stride=stride
    )


def initialize(model: Transformer, mesh: Mesh, seed: int) -> None:
    """Draw every tensor whole, one at a time, as one process does, and keep this process's part."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not name.endswith("freqs"):
            shape = whole_shape(name, tensor, mesh)
            keep_own(name, tensor, initial(name, shape, model.config, generator), mesh)


def set_frequencies(model: Transformer) -> None:
    """Compute the buffers that no state holds."""
    for layer, block in enumerate(blocks_of(model)):
        values = frequencies(model.config, layer)
        for name, buffer in block.named_buffers():
            if name.endswith("freqs"):
                buffer.copy_(values)
