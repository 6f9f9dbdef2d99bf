"""Rotary positions: pair (2j, 2j+1) of the last r channels turns by the angle t · f_j.

f_j = θ^(−2j/r) · ((1 − ramp_j) + ramp_j / factor),  ramp_j = clamp((j − low)/(high − low), 0, 1)
low = max(⌊D(β_fast)⌋, 0),  high = min(⌈D(β_slow)⌉, r − 1),  D(β) = r·ln(L / 2πβ) / (2·ln θ)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsv4.ops import native
from dsv4.ops.wide import wide

ROWS = 64  # fewer are left to the plain operator


def frequencies(r: int, theta: float, yarn: Mapping[str, Any] | None) -> Tensor:
    """Angle per position of each pair: float32 [r / 2]. `yarn` None means no interpolation.

    YaRN changes frequencies only, at every position; there is no attention temperature.
    """
    pair = torch.arange(r // 2, dtype=torch.float32, device="cpu")
    plain = 1.0 / theta ** (2 * pair / r)
    if yarn is None:
        return plain

    def dimension(rotations: float) -> float:
        length = yarn["original_max_position_embeddings"]
        return r * math.log(length / (2 * math.pi * rotations)) / (2 * math.log(theta))

    low = max(math.floor(dimension(yarn["beta_fast"])), 0)
    high: float = min(math.ceil(dimension(yarn["beta_slow"])), r - 1)
    if low == high:
        high += 0.001
    ramp = ((pair - low) / (high - low)).clamp(0, 1)
    return plain * ((1 - ramp) + ramp / yarn["factor"])


def phases(positions: Tensor, freqs: Tensor) -> Tensor:
    """e^(i·t·f): positions [..] → complex64 [.., r / 2]."""
    angles = positions.float().unsqueeze(-1) * freqs
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, phase: Tensor) -> Tensor:
    """Turn the last r channels of x [.., c] by `phase` [.., r / 2] (broadcast); same dtype.

    The inverse rotation is `rotate(x, phase.conj())`.
    """
    if x.numel() >= ROWS * x.shape[-1] and _alike(x, phase) and native.trainer(x) is not None:
        y: Tensor = _Rotation.apply(x, phase)
        return y
    plain = x.shape[-1] - 2 * phase.shape[-1]
    pairs = torch.view_as_complex(wide(x[..., plain:]).unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * phase).flatten(-2).to(x.dtype)
    return torch.cat((x[..., :plain], turned), dim=-1)


def _alike(x: Tensor, phase: Tensor) -> bool:
    """Whether the phases are those of x's first two axes: [b or 1, n, 1 …, r / 2]."""
    first, *rest = zip(x.shape[:-1], phase.shape[:-1], strict=False)
    same = x.dim() == phase.dim() and first[1] in (1, first[0]) and rest[:1] == [(x.shape[1],) * 2]
    return same and phase.dtype is torch.complex64 and all(own == 1 for _, own in rest[1:])


class _Rotation(torch.autograd.Function):
    """The native twin. Its slope turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, phase: Tensor) -> Tensor:
        back = phase.is_conj()
        angles = torch.view_as_real(phase.conj() if back else phase).flatten(-2)
        angles = angles.reshape(-1, angles.shape[-1]).contiguous()
        ctx.save_for_backward(angles)
        ctx.back = back
        return _turned(x.detach(), angles, back=back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (angles,) = ctx.saved_tensors
        return _turned(grads[0], angles, back=not ctx.back), None


def _turned(x: Tensor, angles: Tensor, *, back: bool) -> Tensor:
    module = native.trainer(x)
    assert module is not None
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y = torch.empty_like(rows)
    together = rows.shape[0] // (x.shape[0] * x.shape[1])
    module.rows(rows, None, angles, together, None, back, y)
    return y.view(x.shape)
