"""Mixture of experts: y = Σ_{e in top-k} p_e · expert_e(x) + shared(x).

s = √softplus(gate x);  chosen by s + bias (hash layers: by tid2eid[token id])
p = routed_scaling_factor · s_chosen / Σ s_chosen = routed_scaling_factor · softmax(log s_chosen)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4.config import Config
from dsv4.model.layers import expand, linear
from dsv4.model.precision import Precision, as_is, to_bfloat16
from dsv4.model.study import Study
from dsv4.ops.experts import gate_product, routed_experts
from dsv4.ops.products import linear as linear_product

MATRICES = ("w1", "w2", "w3")


STEEP = -20.0  # below it softplus(x) is e^x to float32's last bit


def log_score(logits: Tensor) -> Tensor:
    """log √softplus(x), which is x / 2 long before softplus(x) is 0; its gradient is finite too.

    −∞ gives −∞: weight 0 beside finite ones. From NaN, ∞, and −∞ throughout come no weights: NaN.
    """
    steep = F.softplus(logits.clamp(min=STEEP)).log() - F.relu(STEEP - logits)
    return steep / 2


class Gate(nn.Module):
    """The router: learned scores, and a choice that is learned or fixed by token id."""

    tid2eid: Tensor
    bias: Tensor

    def __init__(self, config: Config, *, hashed: bool, dtype: torch.dtype):
        super().__init__()
        shape = config.n_routed_experts, config.hidden_size
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.topk, self.scaling, self.hashed = (
            config.num_experts_per_tok,
            config.routed_scaling_factor,
            hashed,
        )
        if hashed:
            table = torch.empty(config.vocab_size, self.topk, dtype=torch.int64)
            self.register_buffer("tid2eid", table)
        else:  # moved by load balance, never by a gradient
            self.register_buffer("bias", torch.empty(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x: Tensor, ids: Tensor, study: Study | None = None) -> tuple[Tensor, Tensor]:
        """x [tokens, d], ids [tokens] → experts int64 [tokens, k], weights float32 [tokens, k]."""
        logits = linear_product(x.float(), self.weight.float())  # [tokens, E]
        told = None if study is None else study.experts
        indices = self._choose(logits.detach(), ids) if told is None else told
        if study is not None:
            study.log_scores, study.indices = log_score(logits), indices
        return indices, self.scaling * log_score(logits.gather(1, indices)).softmax(-1)

    def _choose(self, logits: Tensor, ids: Tensor) -> Tensor:
        if self.hashed:
            return self.tid2eid[ids]
        return (F.softplus(logits).sqrt() + self.bias).topk(self.topk, dim=-1).indices


class Experts(nn.Module):
    """All routed experts of a layer, stacked: w1 and w3 [E, i, d], w2 [E, d, i]."""

    def __init__(self, config: Config, precision: Precision):
        super().__init__()
        e, d, i = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        dtype, self.low = precision.dtype, precision.low
        self.limit = config.swiglu_limit
        self.round_weight = precision.expert_weight(config)
        self.round_input = as_is if self.round_weight is as_is else precision.operand
        self.w1 = nn.Parameter(torch.empty(e, i, d, dtype=dtype))
        self.w2 = nn.Parameter(torch.empty(e, d, i, dtype=dtype))
        self.w3 = nn.Parameter(torch.empty(e, i, d, dtype=dtype))

    def forward(self, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """x [tokens, d] → float32 [tokens, d]."""
        w1, w2, w3 = map(self.round_weight, (self.w1, self.w2, self.w3))
        operand = None if self.round_input is as_is else self.round_input
        return routed_experts(
            x, indices, weights, w1, w2, w3, self.limit, low=self.low, operand=operand
        )


class PackedExperts(nn.Module):
    """The same from the bytes of a file, tensor by tensor as they lie there.

    `w1`, `w2`, `w3` and `w1_scale`, `w2_scale`, `w3_scale` are lists of E tensors, attached by the
    reader, in the forms of PackedLinear (no scale: None). Only chosen experts are dequantised.
    """

    def __init__(self, config: Config, precision: Precision):
        super().__init__()
        self.limit, self.count = config.swiglu_limit, config.n_routed_experts
        self.round_input = precision.operand
        for matrix in MATRICES:
            setattr(self, matrix, [torch.empty(0, device="meta")] * self.count)
            setattr(self, f"{matrix}_scale", [None] * self.count)

    def attach(self, matrix: str, expert: int, weight: Tensor, scale: Tensor | None) -> None:
        """Give one expert's matrix its bytes."""
        getattr(self, matrix)[expert] = weight
        getattr(self, f"{matrix}_scale")[expert] = scale

    def matrices(self, expert: int) -> list[tuple[Tensor, Tensor | None]]:
        """One expert's w1, w2 and w3, each with its scale."""
        return [
            (getattr(self, matrix)[expert], getattr(self, f"{matrix}_scale")[expert])
            for matrix in MATRICES
        ]

    def tensors(self) -> list[Tensor]:
        """Every expert's matrices and scales: neither parameters nor buffers."""
        pairs = chain.from_iterable(map(self.matrices, range(self.count)))
        return [tensor for tensor in chain.from_iterable(pairs) if tensor is not None]

    def forward(self, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """x [tokens, d] → float32 [tokens, d]; a token's experts are added in their order."""
        out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        for expert in indices.unique().tolist():
            token, place = (indices == expert).nonzero(as_tuple=True)
            rows = x[token]  # [rows, d]
            up1, up3 = self._multiply("w1", expert, rows), self._multiply("w3", expert, rows)
            gated = gate_product(up1, up3, self.limit) * weights[token, place].unsqueeze(-1)
            out.index_add_(0, token, self._multiply("w2", expert, gated.to(x.dtype)))
        return out

    def _multiply(self, matrix: str, expert: int, rows: Tensor) -> Tensor:
        """rows [rows, in] → float32 [rows, out]."""
        weight, scale = getattr(self, matrix)[expert], getattr(self, f"{matrix}_scale")[expert]
        operand = to_bfloat16(rows) if scale is None else self.round_input(rows)
        return F.linear(operand, expand(weight, scale))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedExperts:
        for tensors in (getattr(self, name + end) for name in MATRICES for end in ("", "_scale")):
            tensors[:] = [None if each is None else fn(each) for each in tensors]
        return self


class SharedExpert(nn.Module):
    """The expert that every token passes, with weight 1."""

    def __init__(self, config: Config, precision: Precision):
        super().__init__()
        d, i = config.hidden_size, config.moe_intermediate_size
        self.limit = config.swiglu_limit
        self.w1 = linear(d, i, precision, torch.float32)
        self.w3 = linear(d, i, precision, torch.float32)
        self.w2 = linear(i, d, precision, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """x [tokens, d] → [tokens, d]."""
        return self.w2(gate_product(self.w1(x), self.w3(x), self.limit).to(x.dtype))


class MoE(nn.Module):
    """Router, routed experts and the shared expert."""

    def __init__(self, config: Config, layer: int, precision: Precision):
        super().__init__()
        dtype = precision.dtype
        self.gate = Gate(config, hashed=config.is_hashed(layer), dtype=dtype)
        stored = PackedExperts if precision.packed else Experts
        self.experts = stored(config, precision)
        self.shared_experts = SharedExpert(config, precision)

    def forward(self, x: Tensor, ids: Tensor, study: Study | None = None) -> Tensor:
        """x [b, n, d], ids [b, n] → [b, n, d]; summed in float32, cast once."""
        rows = x.flatten(0, 1)
        indices, weights = self.gate(rows, ids.flatten(), study)
        routed = self.experts(rows, indices, weights)
        return (routed + self.shared_experts(rows).float()).to(x.dtype).view_as(x)
