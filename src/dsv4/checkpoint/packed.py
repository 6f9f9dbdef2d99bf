"""A packed model's weights: views of the mapped shards, in the forms in which they are stored."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from dsv4.checkpoint.layout import Role, WeightSpec, scale_name, weights
from dsv4.checkpoint.reader import PACKED, Checkpoint
from dsv4.model.layers import PackedLinear
from dsv4.model.moe import PackedExperts
from dsv4.model.transformer import Transformer

EXPERT = re.compile(r"(?P<experts>.*\.ffn\.experts)\.(?P<number>\d+)\.(?P<matrix>w[123])\.weight")


@torch.no_grad()
def attach(model: Transformer, checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """Give a packed model, made on the meta device, the tensors of the files.

    Returns address and bytes of each mapped file.

    Matrices are not read here, so a NaN in one shows only in the logits; the rest is checked.
    Raises: MismatchError if the files do not hold the model; CheckpointError, naming the tensor,
    for NaN, infinity or an expert id out of range.
    """
    specs = weights(checkpoint.config)
    checkpoint.check({name: spec.shape for name, spec in specs.items()})
    places = set()
    for name in checkpoint.in_shard_order(specs):
        weight, scale = _stored(checkpoint, name, specs[name])
        places.add(checkpoint.place(name))
        expert = EXPERT.fullmatch(name)
        if expert is None:
            _place(model, name, weight, scale)
            continue
        experts = model.get_submodule(expert["experts"])
        assert isinstance(experts, PackedExperts)
        experts.attach(expert["matrix"], int(expert["number"]), weight, scale)
    return sorted(places)


def _stored(checkpoint: Checkpoint, name: str, spec: WeightSpec) -> tuple[Tensor, Tensor | None]:
    """A weight and its scale as they lie in the file."""
    packed = checkpoint.tensors[name].dtype in PACKED
    if spec.role in (Role.DENSE, Role.EXPERT):
        weight = checkpoint.view(name)
        return weight, checkpoint.view(scale_name(name)) if packed else None
    if packed:  # never so in the release, but a reader takes it
        return checkpoint.read_tensor(name), None
    weight = checkpoint.view(name)
    if spec.role is Role.INDEX:  # what is checked here must not change in the file afterwards
        weight = weight.clone()
    if spec.role is not Role.PLAIN or len(spec.shape) == 1:
        checkpoint.check_values(name, weight)
    return weight.float() if spec.role is Role.FLOAT32 else weight, None


def _place(model: Transformer, name: str, weight: Tensor, scale: Tensor | None) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, PackedLinear):
        module.weight, module.scale = weight, scale
    elif leaf in module._buffers:
        module.register_buffer(leaf, weight)
    else:
        module.register_parameter(leaf, nn.Parameter(weight, requires_grad=False))
