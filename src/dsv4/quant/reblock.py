"""FP4 blocks → FP8 blocks without rounding: S = (largest FP4 scale of the 128×128 block) / 2^6,

    E4M3 = E2M1 · (FP4 scale / S)        6 · 2^6 = 384 < 448

Exact while every FP4 value of the block, a multiple of half its scale, is one of E4M3's 2^-9 · S:
always if the largest scale is at most 2^14 times the smallest. Past that the values themselves are
looked at, so groups of zeros, whose scale says nothing, do not count. S stays at least 2^-127.

The way back is `fp4.quantize` of the float values, which rounds in general. After `fold` it gives
the same values (scales from 2^-126 on), and with `as_rounded` nearly always the same bytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.quant import fp4, fp8
from dsv4.quant.scales import check_scale

GROUPS = fp8.BLOCK // fp4.BLOCK  # FP4 groups in a row of an FP8 block
HEADROOM = 6  # S = 2^-6 of the largest scale
SPAN = 14  # scales at most 2^14 apart: every value survives
VANISHED = -13  # from FP4 scale / S = 2^-13 down every value rounds to zero: 6 · 2^-13 < 2^-10


def fold(packed: Tensor, scale: Tensor, name: str = "weight") -> tuple[Tensor, Tensor, Tensor]:
    """packed int8 [out, in/2], E8M0 [out, in/32] → E4M3 [out, in], E8M0 [⌈out/128⌉, ⌈in/128⌉], and
    which blocks kept every value: bool [⌈out/128⌉, ⌈in/128⌉].

    Whole numbers throughout: scales from 2^-127 to 2^127 fold alike.
    Raises ValueError, naming the tensor, for a scale that is NaN, of another dtype or shape.
    """
    if scale.dtype is not torch.float8_e8m0fnu:
        raise ValueError(f"the scale of {name} is {scale.dtype}: folding needs float8_e8m0fnu")
    rows, groups = packed.shape[0], 2 * packed.shape[1] // fp4.BLOCK
    check_scale(scale, (rows, groups), name)
    exponent = scale.view(torch.uint8).int()  # [out, in/32], biased
    folded = (_blockwise_max(exponent, (fp8.BLOCK, GROUPS)) - HEADROOM).clamp(min=0)
    spread = folded.repeat_interleave(fp8.BLOCK, 0)[:rows].repeat_interleave(GROUPS, 1)
    shift = exponent - spread[:, :groups]  # [out, in/32], at most 6
    values, exact = _tables(packed.device)
    index = (shift.clamp(min=VANISHED) - VANISHED) << 8  # a row of the table for each shift
    pairs = packed.view(torch.uint8).unflatten(1, (groups, -1)) + index.unsqueeze(2)
    weight = values[pairs].flatten(1).view(torch.float8_e4m3fn)  # [out, in/2] pairs → [out, in]
    fits = torch.ones_like(folded, dtype=torch.bool)
    if shift.numel() and shift.min() < HEADROOM - SPAN:
        lost = ~exact[pairs].flatten(1)  # [out, in/2]
        fits = _blockwise_max(lost.int(), (fp8.BLOCK, fp8.BLOCK // 2)) == 0
    return weight, folded.to(torch.uint8).view(torch.float8_e8m0fnu), fits


def as_rounded(packed: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [.., in/2], E8M0 [.., in/32] → the same values, in the form that rounding makes.

    A group whose largest code is 6, without any 0.5 or 1.5, equals one of half the codes and twice
    the scale. `quantize` of such values answers 6; but a group rounded to FP4 ends at 3 whenever
    its amax lay in (3, 3.5) · scale, about one time in five, and few groups lack both 0.5 and 1.5.
    """
    codes = fp4.unpack(packed).unflatten(-1, (-1, fp4.BLOCK))  # [.., in/32, 32]
    size = codes % fp4.SIGN
    halves = torch.tensor([0, 0, 1, 0, 2, 3, 4, 5], dtype=torch.uint8, device=codes.device)
    whole = (size != 1) & (size != 3)  # not 0.5, not 1.5
    twice = (size.amax(-1) == 7) & whole.all(-1) & (scale.view(torch.uint8) < 254)
    halved = halves[size.int()] | codes & fp4.SIGN
    chosen = torch.where(twice.unsqueeze(-1), halved, codes).flatten(-2)
    raised = scale.view(torch.uint8) + twice.to(torch.uint8)
    return fp4.pack(chosen), raised.view(torch.float8_e8m0fnu)


def changed_blocks(before: Tensor, after: Tensor, block: tuple[int, int]) -> Tensor:
    """float [out, in] twice → bool [⌈out/r⌉, ⌈in/c⌉]: whether a block [r, c] holds a difference."""
    return _blockwise_max((before != after).int(), block) > 0


def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """For each shift from VANISHED to 6 and each byte of two codes: both E4M3 as one int16, and
    whether both are exact: [20·256] each.
    """
    shifts = torch.arange(VANISHED, HEADROOM + 1, device=device)
    codes = fp4.unpack(torch.arange(256, dtype=torch.uint8, device=device).view(torch.int8))
    values = fp4.decode(codes) * 2.0 ** shifts.unsqueeze(1)  # [20, 512], exact in float32
    folded = values.to(torch.float8_e4m3fn)
    exact = (folded.float() == values).unflatten(1, (256, 2)).all(2)
    return folded.view(torch.int16).flatten(), exact.flatten()


def _blockwise_max(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    """int32 [out, in] → [⌈out/r⌉, ⌈in/c⌉], of numbers from 0; the last blocks may be smaller."""
    below, right = (-size % side for size, side in zip(matrix.shape, block, strict=True))
    padded = F.pad(matrix, (0, right, 0, below))
    return padded.unflatten(1, (-1, block[1])).unflatten(0, (-1, block[0])).amax((1, 3))
