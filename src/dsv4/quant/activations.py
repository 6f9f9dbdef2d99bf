"""Activations in FP8: each row is cut in groups of `block` channels, each with its own scale.

scale = smallest power of two ≥ max(amax, 1e-4) / 448; value = E4M3(x / scale) · scale. The channels
that are left over form a shorter last group. NaN or infinity makes its group NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.quant.fp8 import FLOOR, LARGEST
from dsv4.quant.scales import power_of_two

BLOCK = 128  # along the input of a linear


def quantize_fp8(x: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """x float [.., in] → E4M3 [.., in], E8M0 [.., ⌈in / block⌉]."""
    groups = grouped(x.float(), block)  # [.., groups, block]
    scale = power_of_two(groups.abs().amax(-1), largest=LARGEST, floor=FLOOR)
    codes = (groups / scale.float().unsqueeze(-1)).clamp(-LARGEST, LARGEST)
    return codes.to(torch.float8_e4m3fn).flatten(-2)[..., : x.shape[-1]], scale


def dequantize_fp8(codes: Tensor, scale: Tensor, block: int = BLOCK) -> Tensor:
    """codes E4M3 [.., in], scale E8M0 [.., ⌈in / block⌉] → float32 [.., in]."""
    groups = grouped(codes.float(), block) * scale.float().unsqueeze(-1)
    return groups.flatten(-2)[..., : codes.shape[-1]]


def round_fp8(x: Tensor, block: int = BLOCK) -> Tensor:
    """x float [.., in] → float32 [.., in], the nearest values that FP8 groups can hold."""
    return dequantize_fp8(*quantize_fp8(x, block), block)


def grouped(x: Tensor, block: int) -> Tensor:
    """[.., in] → [.., ⌈in / block⌉, block], zeros at the end of a shorter last group."""
    missing = -x.shape[-1] % block
    padded = F.pad(x, (0, missing)) if missing else x
    return padded.unflatten(-1, (padded.shape[-1] // block, block))
