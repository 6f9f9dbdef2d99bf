"""scale = the smallest power of two not below max(amax, floor) / largest, and its E8M0 byte."""

from __future__ import annotations

import torch
from torch import Tensor

MANTISSA_BITS = 23  # of float32
E8M0_NAN = 255


def power_of_two(amax: Tensor, *, largest: float, floor: float) -> Tensor:
    """amax float32 [..] ≥ 0 → scales float8_e8m0fnu [..], exact powers of two; NaN and infinity
    give NaN.

    `largest` is the greatest code value of the format; `floor` raises amax, so that a block of
    zeros has a scale too. floor / largest must be a normal float32.
    """
    bits = (amax.clamp(min=floor) / largest).view(torch.int32)
    is_between = (bits & ((1 << MANTISSA_BITS) - 1)) != 0  # two powers of two: take the upper
    exponent = ((bits >> MANTISSA_BITS) + is_between).clamp(max=E8M0_NAN)
    return exponent.to(torch.uint8).view(torch.float8_e8m0fnu)


def check_finite(values: Tensor, name: str) -> None:
    """Raises ValueError, naming the tensor, if float `values` [..] hold NaN or an infinity."""
    if values.numel() and not all(bound.isfinite() for bound in torch.aminmax(values)):
        raise ValueError(f"{name} holds NaN or infinity: only finite values can be used")


def check_scale(scale: Tensor, expected: tuple[int, ...], name: str) -> Tensor:
    """scale F32 or E8M0 → float32, checked.

    Raises ValueError, naming the tensor, for another dtype or shape, or a scale that is NaN,
    infinite, zero or negative.
    """
    if scale.dtype not in (torch.float8_e8m0fnu, torch.float32):
        raise ValueError(f"the scale of {name} is {scale.dtype}: must be float8_e8m0fnu or float32")
    if tuple(scale.shape) != expected:
        raise ValueError(
            f"the scale of {name} has shape {list(scale.shape)}: must be {list(expected)}"
        )
    values = scale.float()
    check_finite(values, f"the scale of {name}")
    if values.numel() and not values.min() > 0:
        raise ValueError(f"the scale of {name} holds {values.min():g}: must be positive")
    return values
