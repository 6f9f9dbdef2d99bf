"""FP8 block: value = E4M3(weight) · scale of its 128×128 block.

scale = smallest power of two ≥ max(amax, 1e-4) / 448; code = round_to_even(clamp(weight / scale)).
A matrix whose sides are not multiples of 128 has smaller last blocks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.quant.scales import check_finite, check_scale, power_of_two

BLOCK = 128
LARGEST = 448.0
FLOOR = 1e-4  # a block of zeros gets the scale 2^-22


def quantize(weight: Tensor, name: str = "weight") -> tuple[Tensor, Tensor]:
    """weight float [out, in] → E4M3 [out, in], E8M0 [⌈out/128⌉, ⌈in/128⌉].

    Raises ValueError, naming the tensor, for NaN, infinity or a tensor that is no matrix.
    """
    if weight.dim() != 2:
        raise ValueError(f"{name} has shape {list(weight.shape)}: FP8 blocks need a matrix")
    check_finite(weight, name)
    blocks = _blocks(weight.float())  # [rows, 128, columns, 128]
    scale = power_of_two(blocks.abs().amax((1, 3)), largest=LARGEST, floor=FLOOR)
    codes = (blocks / scale.float()[:, None, :, None]).clamp(-LARGEST, LARGEST)
    return _matrix(codes.to(torch.float8_e4m3fn), weight.shape), scale


def dequantize(
    weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32, name: str = "weight"
) -> Tensor:
    """weight E4M3 [out, in], scale E8M0 or F32 [⌈out/128⌉, ⌈in/128⌉] → dtype [out, in].

    Multiplied in float32; with a power-of-two scale exact there and in bfloat16, subnormals apart.
    Raises ValueError, naming the tensor, for a NaN code or a scale that is no positive number.
    """
    rows, columns = weight.shape
    check_scale(scale, (math.ceil(rows / BLOCK), math.ceil(columns / BLOCK)), name)
    values = expand(weight, scale)
    check_finite(values, name)
    return values.to(dtype)


def expand(weight: Tensor, scale: Tensor) -> Tensor:
    """`dequantize` to float32 without its checks, for weights that are read again and again."""
    return _matrix(_blocks(weight.float()) * scale.float()[:, None, :, None], weight.shape)


def is_nan_code(weight: Tensor) -> Tensor:
    """E4M3 [..] → bool [..]: its one NaN, of either sign."""
    return (weight.view(torch.uint8) & 0x7F) == 0x7F


def _blocks(matrix: Tensor) -> Tensor:
    """[out, in] → [⌈out/128⌉, 128, ⌈in/128⌉, 128], zeros where the last blocks are smaller."""
    below, right = -matrix.shape[0] % BLOCK, -matrix.shape[1] % BLOCK
    if below or right:
        matrix = F.pad(matrix, (0, right, 0, below))
    return matrix.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))


def _matrix(blocks: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_blocks`."""
    return blocks.flatten(2, 3).flatten(0, 1)[: shape[0], : shape[1]].contiguous()
