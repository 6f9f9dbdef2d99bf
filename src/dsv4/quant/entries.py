"""Rows of the cache as bytes: a window or compressed entry in FP8 + BF16, an indexer key in FP4.

entry of c channels, the last r rotary:  c − r E4M3 codes | r BF16 | ⌈(c − r) / 64⌉ E8M0 scales
key of ic channels:                      ic / 2 bytes of two E2M1 codes | ⌈ic / 32⌉ E8M0 scales
Codes and scales follow fp8.py and fp4.py, with blocks along the row, the last perhaps shorter.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from dsv4.quant import fp4
from dsv4.quant.activations import dequantize_fp8, grouped, quantize_fp8
from dsv4.quant.scales import power_of_two

ENTRY_BLOCK = 64
assert sys.byteorder == "little", "a row's BF16 channels are little endian"


def entry_bytes(c: int, r: int) -> int:
    """Bytes of one entry of c channels, r of them rotary."""
    return (c - r) + 2 * r + math.ceil((c - r) / ENTRY_BLOCK)


def pack_entry(x: Tensor, r: int) -> Tensor:
    """x float [.., c] → uint8 [.., entry_bytes(c, r)]."""
    plain, rotary = x.split([x.shape[-1] - r, r], dim=-1)
    codes, scale = quantize_fp8(plain, ENTRY_BLOCK)
    stored = rotary.to(torch.bfloat16).contiguous()
    return torch.cat([part.view(torch.uint8) for part in (codes, stored, scale)], dim=-1)


def unpack_entry(rows: Tensor, c: int, r: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """rows uint8 [.., entry_bytes(c, r)] → dtype [.., c]; exact in float32 and bfloat16."""
    sizes = [c - r, 2 * r, rows.shape[-1] - c - r]
    codes, stored, scale = rows.split(sizes, dim=-1)
    plain = dequantize_fp8(
        codes.view(torch.float8_e4m3fn), scale.view(torch.float8_e8m0fnu), ENTRY_BLOCK
    )
    stored = stored.clone(memory_format=torch.contiguous_format)  # else rows' odd width is a stride
    return torch.cat((plain.to(dtype), stored.view(torch.bfloat16).to(dtype)), dim=-1)


def key_bytes(ic: int) -> int:
    """Bytes of one indexer key of ic channels, an even number."""
    return ic // 2 + math.ceil(ic / fp4.BLOCK)


def pack_key(x: Tensor) -> Tensor:
    """x float [.., ic] → uint8 [.., key_bytes(ic)]."""
    ic = x.shape[-1]
    assert ic % 2 == 0, "two codes share a byte"
    blocks = grouped(x.float(), fp4.BLOCK)  # [.., ⌈ic / 32⌉, 32]
    scale = power_of_two(blocks.abs().amax(-1), largest=fp4.LARGEST, floor=fp4.FLOOR)
    codes = fp4.encode((blocks / scale.float().unsqueeze(-1)).flatten(-2)[..., :ic])
    return torch.cat((fp4.pack(codes).view(torch.uint8), scale.view(torch.uint8)), dim=-1)


def unpack_key(rows: Tensor, ic: int) -> Tensor:
    """rows uint8 [.., key_bytes(ic)] → float32 [.., ic]."""
    codes, scale = rows.split([ic // 2, rows.shape[-1] - ic // 2], dim=-1)
    factors = scale.view(torch.float8_e8m0fnu).float().unsqueeze(-1)
    blocks = grouped(fp4.values(codes), fp4.BLOCK) * factors
    return blocks.flatten(-2)[..., :ic]
