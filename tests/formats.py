"""Number formats in float64, from their definitions: the oracle of tests that round.

Nothing of dsv4 is used. A format is the list of its magnitudes; the code is the place in the list.
"""

import torch

BITS = range(127)
E4M3 = [(b & 7) * 2.0**-9 if b < 8 else (8 + (b & 7)) * 2.0 ** ((b >> 3) - 10) for b in BITS]
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def nearest(x, grid):
    """The code of the magnitude nearest to |x|; of two equally near ones the even code."""
    grid = torch.tensor(grid, dtype=torch.float64)
    x = x.double().abs().clamp(max=grid[-1])
    above = torch.searchsorted(grid, x).clamp(max=len(grid) - 1)
    below = (above - 1).clamp(min=0)
    to_below, to_above = x - grid[below], grid[above] - x
    even = above % 2 == 0
    return torch.where((to_above < to_below) | ((to_above == to_below) & even), above, below)


def power_of_two(amax, largest, floor):
    """The smallest 2^e with largest · 2^e ≥ max(amax, floor), by trial."""
    amax = amax.double().clamp(min=floor)
    scale = 2.0 ** (torch.log2(amax / largest).floor() - 1)
    for _ in range(3):
        scale = torch.where(scale * largest < amax, 2 * scale, scale)
    assert (scale * largest >= amax).all() and (scale * largest / 2 < amax).all()
    return scale


def blockwise(x, block, grid, floor):
    """Codes with sign (None of −0: sign apart), scales and values of rows cut in blocks."""
    x = x.double()
    codes, scales, values = [], [], []
    for part in x.split(block, dim=-1):
        scale = power_of_two(part.abs().amax(-1, keepdim=True), grid[-1], floor)
        code = nearest(part / scale, grid)
        magnitude = torch.tensor(grid, dtype=torch.float64)[code] * scale
        codes.append(code), scales.append(scale), values.append(magnitude.copysign(part))
    return torch.cat(codes, -1), torch.cat(scales, -1), torch.cat(values, -1)


def fp8(x, block):
    """x rounded to E4M3 in blocks of the last axis."""
    if x.shape[-1] == 0:
        return x.double()
    return blockwise(x, block, E4M3, float(torch.tensor(1e-4)))[2]


def fp4(x, block=32):
    """x rounded to E2M1 in blocks of the last axis."""
    return blockwise(x, block, E2M1, 6 * 2.0**-126)[2]


def bf16(x):
    """x rounded to 8 significant bits, ties to even (float32's exponents, subnormals apart)."""
    mantissa, exponent = torch.frexp(x.double())
    return torch.ldexp(torch.round(mantissa * 256) / 256, exponent)


def hadamard(dim):
    """(−1)^popcount(i & j) / √dim, entry by entry."""
    signs = [[(-1.0) ** (i & j).bit_count() for j in range(dim)] for i in range(dim)]
    return torch.tensor(signs, dtype=torch.float64) / dim**0.5
