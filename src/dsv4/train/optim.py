"""Muon for matrices, AdamW for the rest (report, section 2.4).

M ← μM + G;  O = HybridNewtonSchulz(μM + G) · √max(rows, cols) · γ;  W ← W(1 − ηλ) − ηO
Newton–Schulz: X ← aX + b(XXᵀ)X + c(XXᵀ)²X, 8 steps that converge fast, then 2 that settle at 1.

AdamW: embedding, head, norms, mHC base and scale, and all other vectors. Muon: every other tensor
of two or more dimensions, `ape` included (the report's letter). A stored tensor that holds several
matrices is orthogonalised part by part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dsv4.config import Config

FAST, SETTLE = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)
COEFFICIENTS = (FAST,) * 8 + (SETTLE,) * 2


def orthogonalise(
    g: Tensor,
    dtype: torch.dtype = torch.bfloat16,
    coefficients: Sequence[tuple[float, float, float]] = COEFFICIENTS,
) -> Tensor:
    """The nearest semi-orthogonal matrix of each g [.., rows, cols], about; products in `dtype`,
    one step of Newton–Schulz for each (a, b, c)."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-20)).to(dtype)
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


class Muon(torch.optim.Optimizer):
    """Muon over the named matrices of one model; same-shaped parts are orthogonalised together."""

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
    ):
        pairs, self.coefficients = list(named), coefficients
        self.parts = [row_parts(name, p.shape, config) for name, p in pairs]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "gamma": gamma}
        super().__init__([parameter for _, parameter in pairs], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "the loss is evaluated outside the optimizer"
        for group in self.param_groups:
            self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter, rows in zip(group["params"], self.parts, strict=True):
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            moment = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
            update = parameter.grad.add(moment, alpha=group["momentum"])
            pieces = zip(parameter.split(rows, dim=-2), update.split(rows, dim=-2), strict=True)
            for weight, piece in pieces:
                shape = (weight.shape[-2], weight.shape[-1])
                by_shape.setdefault(shape, []).append((weight, piece))
        for shape, pairs in by_shape.items():
            stacked = torch.cat([piece.reshape(-1, *shape) for _, piece in pairs])
            scale = group["gamma"] * max(shape) ** 0.5
            done = orthogonalise(stacked, coefficients=self.coefficients).mul_(scale)
            sizes = [weight.numel() // (shape[0] * shape[1]) for weight, _ in pairs]
            for (weight, _), update in zip(pairs, done.split(sizes), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update.view_as(weight), alpha=group["lr"])


class Owned(NamedTuple):
    """A parameter and what moves it."""

    name: str
    parameter: nn.Parameter
    optimizer: str  # "Muon" or "AdamW"
    matrices: int  # logical matrices that Muon orthogonalises, each by itself


def parameter_groups(model: nn.Module, config: Config) -> list[Owned]:
    """Every parameter that is trained, once, in the model's order. The others (`tid2eid` and the
    routers' `bias`) are buffers: no optimizer moves them."""
    rows = []
    for name, parameter in model.named_parameters():
        muon = takes_muon(name, parameter.dim())
        stacked = parameter.shape[:-2].numel() if muon else 0
        parts = len(row_parts(name, parameter.shape, config)) if muon else 0
        rows.append(Owned(name, parameter, "Muon" if muon else "AdamW", stacked * parts))
    return rows


def groups_table(model: nn.Module, config: Config) -> str:
    """A line for each name (layers as one): optimizer, tensors, matrices, numbers."""
    found: dict[str, list[Owned]] = {}
    for owned in parameter_groups(model, config):
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
    model: nn.Module, config: Config, *, lr: float, weight_decay: float = 0.1
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over all parameters of a model, each exactly once."""
    groups = parameter_groups(model, config)
    matrices = [(one.name, one.parameter) for one in groups if one.optimizer == "Muon"]
    rest = [one.parameter for one in groups if one.optimizer == "AdamW"]
    return [
        Muon(matrices, config, lr=lr, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), eps=1e-20, weight_decay=weight_decay),
    ]
