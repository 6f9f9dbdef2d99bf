"""Weights larger than memory: a target for the process's resident set, met by giving experts back.

cap ≥ dense weights + one token's experts of one layer + PROCESS + the numbers of a pass

Which experts are in memory is the native module's care (csrc/residency.h); here is what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Any

import torch

from dsv4.config import Config
from dsv4.model.moe import PackedExperts
from dsv4.model.transformer import Transformer

PROCESS = 250 << 20  # bytes of Python, torch and a short cache
ROWS = 512  # tokens of a pass (csrc/passes.h)
MIB = 1 << 20


@dataclass(frozen=True)
class Limit:
    """A cap in bytes, and where the files lie whose pages may be given back: (address, bytes)."""

    nbytes: int
    mapped: Sequence[tuple[int, int]]


def residency(module: ModuleType, model: Transformer, limit: Limit) -> Any:
    """The native residency that a packed model's layers share.

    Raises ValueError for a cap that the model cannot run under, with the least that it can.
    """
    experts = [part for part in model.modules() if isinstance(part, PackedExperts)]
    dense = chain(model.parameters(), model.buffers())  # routed experts are neither
    always = sum(tensor.nbytes for tensor in dense) - model.embed.weight.nbytes
    few = max(map(_expert_bytes, experts)) * model.config.num_experts_per_tok
    beside = PROCESS + pass_bytes(model.config)
    least = always + few + beside
    if limit.nbytes < least:
        raise ValueError(
            f"max_resident = {limit.nbytes:,} bytes ({limit.nbytes / MIB:,.0f} MiB) is too small "
            f"for this model: it needs {always / MIB:,.0f} MiB for its dense weights, "
            f"{few / MIB:,.0f} MiB for the experts of a token and {beside / MIB:,.0f} MiB beside "
            f"them; give it at least {-(-least // MIB)}MiB"
        )
    found = module.Residency(limit.nbytes, always + beside, list(limit.mapped))
    found.spare(model.embed.weight.detach().view(torch.uint8))
    return found


def pass_bytes(config: Config) -> int:
    """The float32 numbers of a pass: streams, queries and outputs of heads, rows of experts."""
    streams = 2 * config.hc_mult * config.hidden_size
    heads = 2 * config.num_attention_heads * config.head_dim
    experts = (1 + config.num_experts_per_tok) * (
        2 * config.moe_intermediate_size + config.hidden_size
    )
    return 4 * ROWS * (streams + heads + experts)


def _expert_bytes(experts: PackedExperts) -> int:
    """Bytes of one expert's matrices and scales."""
    stored = (tensor for pair in experts.matrices(0) for tensor in pair if tensor is not None)
    return sum(tensor.nbytes for tensor in stored)
