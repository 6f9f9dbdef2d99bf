"""Muon for matrices, AdamW for the rest (report, section 2.4).

M ← μM + G;  O = HybridNewtonSchulz(μM + G) · √max(rows, cols) · γ;  W ← W(1 − ηλ) − ηO
Newton–Schulz: X ← aX + b(XXᵀ)X + c(XXᵀ)²X, 8 steps that converge fast, then 2 that settle at 1.

AdamW: embedding, head, norms, mHC base and scale, and all other vectors. Muon: every other tensor
of two or more dimensions, `ape` included (the report's letter). A stored tensor that holds several
matrices is orthogonalised part by part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dsv4.config import Config
from dsv4.ops import adam

FAST, SETTLE = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)
COEFFICIENTS = (FAST,) * 8 + (SETTLE,) * 2
TOGETHER = 1 << 24  # numbers that are orthogonalised at once


def orthogonalise(
    g: Tensor,
    dtype: torch.dtype = torch.bfloat16,
    coefficients: Sequence[tuple[float, float, float]] = COEFFICIENTS,
) -> Tensor:
    """The nearest semi-orthogonal matrix of each g [.., rows, cols], about; products in `dtype`,
    one step of Newton–Schulz for each (a, b, c)."""
    squares = g.square().sum(-1, keepdim=True).sum(-2, keepdim=True)  # row by row, in one order
    tall = g.shape[-2] > g.shape[-1]
    x = (g / (squares.sqrt() + 1e-20)).to(dtype)
    x = x.mT if tall else x
    for a, b, c in coefficients:
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    x = x.to(g.dtype)
    return x.mT if tall else x


def row_parts(name: str, shape: torch.Size, config: Config) -> list[int]:
    """Rows of each logical matrix in a stored one."""
    hc, rows = config.hc_mult, shape[-2]
    if name.endswith(("hc_attn_fn", "hc_ffn_fn")):
        return [hc, hc, hc * hc]  # pre, post, comb
    if name.endswith("attn.wo_a.weight"):
        return [config.o_lora_rank] * config.o_groups
    if "compressor.w" in name and rows in (2 * config.head_dim, 2 * config.index_head_dim):
        layer = int(name.split(".")[1])
        if config.kind(layer).name == "CSA":  # channels for the block before, and for its own
            return [rows // 2] * 2
    return [rows]


def takes_muon(name: str, dimensions: int) -> bool:
    """Whether a parameter belongs to Muon; otherwise AdamW has it."""
    return dimensions >= 2 and name not in ("embed.weight", "head.weight")


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process: all, or its shard (call it without gradients)."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return tensor


class Matrices(Protocol):
    """Where the matrices of stored tensors are whole."""

    def whole(self, updates: Mapping[int, Tensor]) -> list[Tensor]:
        """The matrices [.., rows, cols] that this process orthogonalises, in place, of the updates
        of these parameters (by their place in the optimizer; the same in every process)."""
        ...

    def back(self, updates: Mapping[int, Tensor], matrices: list[Tensor]) -> None:
        """Bring them to where they came from."""
        ...


class Here:
    """They all lie in this process: views of the updates."""

    def __init__(self, parts: list[list[int]]):
        self.parts = parts

    def whole(self, updates: Mapping[int, Tensor]) -> list[Tensor]:
        """Each stored tensor in its parts."""
        split = (update.split(self.parts[place], dim=-2) for place, update in updates.items())
        return [matrix for matrices in split for matrix in matrices]

    def back(self, updates: Mapping[int, Tensor], matrices: list[Tensor]) -> None:
        """They are there."""


class Muon(torch.optim.Optimizer):
    """Muon over the named matrices of one model; same-shaped ones are orthogonalised together.

    Of sharded parameters moments are sharded alike, and `matrices` says where a matrix is whole.
    On a CPU a matrix's update is the same to the bit whatever it is batched with and however it
    is sharded.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        config: Config,
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        gamma: float = 0.18,
        coefficients: Sequence[tuple[float, float, float]] = COEFFICIENTS,
        matrices: Matrices | None = None,
    ):
        pairs, self.coefficients = list(named), coefficients
        self.matrices = matrices or Here([row_parts(name, p.shape, config) for name, p in pairs])
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "gamma": gamma}
        super().__init__([parameter for _, parameter in pairs], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "the loss is evaluated outside the optimizer"
        for group in self.param_groups:
            self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        updates: dict[int, Tensor] = {}
        for place, parameter in enumerate(group["params"]):
            if parameter.grad is None:
                continue
            state, gradient = self.state[parameter], local(parameter.grad)
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            moment = local(state["momentum"]).mul_(group["momentum"]).add_(gradient)
            updates[place] = moment.mul(group["momentum"]).add_(gradient)
        matrices = self.matrices.whole(updates)
        self._orthogonalise(matrices, group["gamma"])
        self.matrices.back(updates, matrices)
        for place, update in updates.items():
            weight = local(group["params"][place])
            weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.mul_(group["lr"]))

    def _orthogonalise(self, matrices: list[Tensor], gamma: float) -> None:
        """Each of them in place, at most TOGETHER numbers in one product."""
        by_shape: dict[tuple[int, int], list[Tensor]] = {}
        for matrix in matrices:
            shape = (matrix.shape[-2], matrix.shape[-1])
            by_shape.setdefault(shape, []).extend(matrix.reshape(-1, *shape).unbind())
        for shape, alike in by_shape.items():
            count = max(1, TOGETHER // (shape[0] * shape[1]))
            for first in range(0, len(alike), count):
                some = alike[first : first + count]
                done = orthogonalise(torch.stack(some), coefficients=self.coefficients)
                done.mul_(gamma * max(shape) ** 0.5)
                for matrix, update in zip(some, done.unbind(), strict=True):
                    matrix.copy_(update)


class AdamW(torch.optim.AdamW):
    """AdamW whose update of a number is the same to the bit however its tensor is sharded; the
    states are torch's."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "the loss is evaluated outside the optimizer"
        for group in self.param_groups:
            rule = adam.Rule(group["lr"], group["betas"], group["eps"], group["weight_decay"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, rule)

    def _move(self, parameter: Tensor, rule: adam.Rule) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        assert parameter.grad is not None
        moved = parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]
        weight, slope, mean, square = map(local, moved)
        if weight.numel():  # not an empty shard
            adam.step(weight, slope, mean, square, rule, int(state["step"]))


@torch.no_grad()
def clip_gradients(model: nn.Module, limit: float, norm: Tensor) -> None:
    """Scale the gradients so that their norm, which is `norm`, is at most `limit`."""
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in model.parameters():
        if parameter.grad is not None:
            local(parameter.grad).mul_(scale)


class Owned(NamedTuple):
    """A parameter and what moves it."""

    name: str
    parameter: nn.Parameter
    optimizer: str  # "Muon" or "AdamW"
    matrices: int  # logical matrices that Muon orthogonalises, each by itself


def parameter_groups(model: nn.Module, config: Config, rule: str = "muon") -> list[Owned]:
    """Every parameter that is trained, once, in the model's order; by `rule` "adamw" AdamW has them
    all. The others (`tid2eid` and the routers' `bias`) are buffers: no optimizer moves them."""
    rows = []
    for name, parameter in model.named_parameters():
        muon = rule == "muon" and takes_muon(name, parameter.dim())
        stacked = parameter.shape[:-2].numel() if muon else 0
        parts = len(row_parts(name, parameter.shape, config)) if muon else 0
        rows.append(Owned(name, parameter, "Muon" if muon else "AdamW", stacked * parts))
    return rows


def groups_table(model: nn.Module, config: Config, rule: str = "muon") -> str:
    """A line for each name (layers as one): optimizer, tensors, matrices, numbers."""
    found: dict[str, list[Owned]] = {}
    for owned in parameter_groups(model, config, rule):
        found.setdefault(re.sub(r"\.\d+\.", ".*.", owned.name), []).append(owned)
    width = max(map(len, found))
    lines = [f"{'parameters':{width}}  optimizer  tensors  matrices        numbers"]
    for name, rows in found.items():
        count, matrices = len(rows), sum(row.matrices for row in rows)
        numbers = sum(row.parameter.numel() for row in rows)
        lines.append(
            f"{name:{width}}  {rows[0].optimizer:9}  {count:7}  {matrices or '-':>8}  {numbers:13,}"
        )
    return "\n".join(lines)


def optimizers(
    model: nn.Module,
    config: Config,
    *,
    lr: float,
    weight_decay: float = 0.1,
    rule: str = "muon",
    spread: Callable[[list[tuple[str, nn.Parameter]]], Matrices] | None = None,
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over all parameters of a model, each exactly once, or by `rule` "adamw" AdamW
    alone. Of a sharded model `spread` says where Muon's matrices are whole
    (train/parallel/owners.py)."""
    groups = parameter_groups(model, config, rule)
    matrices = [(one.name, one.parameter) for one in groups if one.optimizer == "Muon"]
    rest = [one.parameter for one in groups if one.optimizer == "AdamW"]
    adamw = AdamW(rest, lr=lr, betas=(0.9, 0.95), eps=1e-20, weight_decay=weight_decay)
    if not matrices:
        return [adamw]
    whole = None if spread is None else spread(matrices)
    return [Muon(matrices, config, lr=lr, weight_decay=weight_decay, matrices=whole), adamw]
