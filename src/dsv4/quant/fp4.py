"""FP4 block: value = E2M1(code) · scale of its 32 neighbours in the row.

A code is a sign bit and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6; a byte holds two, the even column low.
scale = smallest power of two ≥ max(amax, 6·2^-126) / 6; code = round_to_even(clamp(w / scale)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.quant.scales import check_finite, check_scale, power_of_two

BLOCK = 32
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST = 6.0
FLOOR = 6 * 2.0**-126
SIGN = 8


def quantize(weight: Tensor, name: str = "weight") -> tuple[Tensor, Tensor]:
    """weight float [.., in] → packed int8 [.., in/2], E8M0 [.., in/32].

    Raises ValueError, naming the tensor, for NaN, infinity or rows that 32 does not divide.
    """
    if weight.shape[-1] % BLOCK:
        raise ValueError(
            f"{name} has rows of {weight.shape[-1]}: FP4 blocks need a multiple of {BLOCK}"
        )
    check_finite(weight, name)
    blocks = weight.float().unflatten(-1, (-1, BLOCK))  # [.., in/32, 32]
    scale = power_of_two(blocks.abs().amax(-1), largest=LARGEST, floor=FLOOR)
    return pack(encode((blocks / scale.float().unsqueeze(-1)).flatten(-2))), scale


def dequantize(
    packed: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32, name: str = "weight"
) -> Tensor:
    """packed int8 [.., in/2], scale E8M0 or F32 [.., in/32] → dtype [.., in].

    Multiplied in float32; with a power-of-two scale exact there and in bfloat16, subnormals apart.
    Raises ValueError, naming the tensor, for a scale that is no positive number.
    """
    columns = 2 * packed.shape[-1]
    check_scale(scale, (*packed.shape[:-1], columns // BLOCK), name)
    expanded = expand(packed, scale)
    check_finite(expanded, name)
    return expanded.to(dtype)


def expand(packed: Tensor, scale: Tensor) -> Tensor:
    """`dequantize` to float32 without its checks, for weights that are read again and again."""
    blocks = values(packed).unflatten(-1, (-1, BLOCK))
    return (blocks * scale.float().unsqueeze(-1)).flatten(-2)


def encode(values: Tensor) -> Tensor:
    """float [..] → the nearest codes uint8 [..]; a tie takes the even code, beyond ±6 saturates."""
    magnitude = torch.bucketize(values.float().abs(), _upper_bounds().to(values.device))
    return (magnitude + SIGN * torch.signbit(values)).to(torch.uint8)


def decode(codes: Tensor) -> Tensor:
    """codes uint8 [..], 0 … 15 → float32 [..]."""
    table = torch.tensor((*MAGNITUDES, *(-value for value in MAGNITUDES)), device=codes.device)
    return table[codes.int()]


def values(packed: Tensor) -> Tensor:
    """packed int8 or uint8 [.., in/2] → float32 [.., in], not yet scaled."""
    every_byte = torch.arange(256, dtype=torch.uint8, device=packed.device).unsqueeze(1)
    pairs = decode(unpack(every_byte))  # [256, 2]
    return F.embedding(packed.view(torch.uint8).int(), pairs).flatten(-2)


def pack(codes: Tensor) -> Tensor:
    """codes uint8 [.., in], 0 … 15 → int8 [.., in/2], the even column in the low nibble."""
    return (codes[..., 0::2] | codes[..., 1::2] << 4).view(torch.int8)


def unpack(packed: Tensor) -> Tensor:
    """int8 [.., in/2] → codes uint8 [.., in]."""
    pairs = packed.view(torch.uint8)
    return torch.stack((pairs & 0xF, pairs >> 4), dim=-1).flatten(-2)


def _upper_bounds() -> Tensor:
    """float32 [7]: for each magnitude but the last, the greatest number that rounds to it."""
    magnitudes = torch.tensor(MAGNITUDES)
    middles = (magnitudes[1:] + magnitudes[:-1]) / 2  # a tie belongs to the even code
    even = torch.arange(len(middles)) % 2 == 0
    return torch.where(even, middles, torch.nextafter(middles, torch.zeros(())))
