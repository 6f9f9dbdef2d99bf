"""Muon for matrices, AdamW for the rest (report, section 2.4).

M ← μM + G;  O = HybridNewtonSchulz(μM + G) · √max(rows, cols) · γ;  W ← W(1 − ηλ) − ηO
Newton–Schulz: X ← aX + b(XXᵀ)X + c(XXᵀ)²X, 8 steps that converge fast, then 2 that settle at 1.

AdamW: embedding, head, norms, mHC base and scale, and all other vectors. Muon: every other tensor
of two or more dimensions, `ape` included (the report's letter). A stored tensor that holds several
matrices is orthogonalised part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dsv4.config import Config

FAST, SETTLE = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)
COEFFICIENTS = (FAST,) * 8 + (SETTLE,) * 2


def orthogonalise(g: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest semi-orthogonal matrix of each g [.., rows, cols], about; products in `dtype`."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-20)).to(dtype)
    for a, b, c in COEFFICIENTS:
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
    ):
        pairs = list(named)
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
            done = orthogonalise(stacked).mul_(scale)
            sizes = [weight.numel() // (shape[0] * shape[1]) for weight, _ in pairs]
            for (weight, _), update in zip(pairs, done.split(sizes), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update.view_as(weight), alpha=group["lr"])


def optimizers(
    model: nn.Module, config: Config, *, lr: float, weight_decay: float = 0.1
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over all parameters of a model, each exactly once."""
    named = list(model.named_parameters())
    rest = [parameter for name, parameter in named if not takes_muon(name, parameter.dim())]
    return [
        Muon(
            [(n, p) for n, p in named if takes_muon(n, p.dim())],
            config,
            lr=lr,
            weight_decay=weight_decay,
        ),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), eps=1e-20, weight_decay=weight_decay),
    ]
