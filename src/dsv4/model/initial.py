"""Initial weights: matrices N(0, initializer_range²), norms 1, sinks, `ape` and biases 0.

mHC begins near the identity: `scale` 0.01; pre = 1/hc each (the sub-layer reads the mean of the
streams), post = 1, comb ≈ I (its softmax gets e^6 : 1 in favour of the diagonal). The hash table
is seeded and balanced: every expert serves equally many token ids, to within one per column.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dsv4.config import Config

HC_SCALE = 0.01
HC_DIAGONAL = 6.0


@torch.no_grad()
def initialize(model: nn.Module, config: Config, seed: int) -> None:
    """Fill every parameter and buffer of a Transformer, in name order, from one generator."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not name.endswith("freqs"):
            tensor.copy_(initial(name, tensor.shape, config, generator))


def initial(name: str, shape: torch.Size, config: Config, generator: torch.Generator) -> Tensor:
    """The initial value of a parameter or buffer, drawn after those before it."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "tid2eid":
        return hash_table(config.vocab_size, config.n_routed_experts, shape[1], generator)
    if leaf.startswith("hc_") and leaf.endswith("_scale"):
        return torch.full(shape, HC_SCALE)
    if leaf.startswith("hc_") and leaf.endswith("_base"):
        return _hyper_base(config.hc_mult, shape[0])
    if leaf in ("attn_sink", "ape", "bias"):
        return torch.zeros(shape)
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
    return drawn * config.initializer_range


def _hyper_base(hc: int, size: int) -> Tensor:
    pre = torch.full((hc,), -math.log(max(hc - 1, 1e-3)))  # sigmoid gives 1 / hc
    if size == hc:  # the output head has nothing else
        return pre
    return torch.cat((pre, torch.zeros(hc), (HC_DIAGONAL * torch.eye(hc)).flatten()))


def hash_table(vocab: int, experts: int, k: int, generator: torch.Generator) -> Tensor:
    """k distinct experts for each token id, each column a balanced one: int64 [vocab, k].

    Column j is a seeded shuffle of ids over experts, moved on by j steps of a seeded expert order.
    """
    first = torch.arange(vocab).remainder(experts)[torch.randperm(vocab, generator=generator)]
    order = torch.randperm(experts, generator=generator)
    steps = torch.randperm(experts, generator=generator)[:k]  # distinct, so the experts are too
    return order[(first.unsqueeze(1) + steps) % experts]
