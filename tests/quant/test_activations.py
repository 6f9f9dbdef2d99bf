"""Rows rounded to FP8 groups, against the float64 formulation of tests/formats.py."""

import formats
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.quant.activations import dequantize_fp8, quantize_fp8, round_fp8


def rows(seed, n, spread):
    """Normal numbers over `spread` powers of two, with zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, n, generator=generator)
    x = x * 2.0 ** torch.randint(-spread, spread + 1, (3, n), generator=generator)
    return x * (torch.rand(3, n, generator=generator) > 0.1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 300),
    spread=st.sampled_from([0, 3, 20, 60]),
    block=st.sampled_from([1, 64, 128]),
)
def test_values_and_scales_are_the_nearest(seed, n, spread, block):
    x = rows(seed, n, spread)
    codes, scale = quantize_fp8(x, block)
    want, scales, values = formats.blockwise(x, block, formats.E4M3, float(torch.tensor(1e-4)))
    assert torch.equal(scale.double(), scales)
    assert torch.equal(codes.view(torch.uint8) & 127, want.to(torch.uint8))
    rounded = round_fp8(x, block)
    assert torch.equal(rounded.double(), values)
    assert torch.equal(round_fp8(rounded, block), rounded)  # what is representable stays
    assert torch.equal(rounded.bfloat16().float(), rounded)


@pytest.mark.parametrize("block", [64, 128])
def test_zeros_subnormals_and_extremes(block):
    tiny = torch.finfo(torch.float32).tiny
    x = torch.zeros(4, 130)
    x[1, 5] = tiny / 4  # a float32 subnormal, below half of the smallest step: 0
    x[2, 7] = 1.9 * 2.0**127  # the greatest that float32 holds when rounded
    x[2, 8] = 448 * 2.0**112
    x[3, :] = torch.linspace(-448, 448, 130) * 2.0**-22  # under the floor's scale
    assert torch.equal(round_fp8(x, block).double(), formats.fp8(x, block))
    codes, scale = quantize_fp8(x, block)
    assert (scale.double()[:2] == 2.0**-22).all() and not codes.view(torch.uint8)[:2].any()
    assert torch.equal(dequantize_fp8(codes, scale, block).double(), formats.fp8(x, block))


def test_ties_take_the_even_code():
    x = torch.tensor([[448.0, 17.0, 19.0, -17.0, 2.0**-10, 3 * 2.0**-10]])
    assert round_fp8(x).tolist() == [[448.0, 16.0, 20.0, -16.0, 0.0, 2.0**-8]]


def test_not_finite_spoils_its_group_only():
    x = torch.ones(3, 256)
    x[0, 3], x[1, 200] = torch.nan, torch.inf
    rounded = round_fp8(x)
    assert rounded[0, :128].isnan().all() and rounded[1, 128:].isnan().all()
    assert (rounded[0, 128:] == 1).all() and (rounded[1, :128] == 1).all()
    assert (rounded[2] == 1).all()


def test_shape_and_dtype():
    x = torch.randn(2, 0, 200, dtype=torch.bfloat16)
    assert round_fp8(x).shape == x.shape and round_fp8(x).dtype is torch.float32
    x = torch.randn(2, 3, 200, dtype=torch.bfloat16)
    assert torch.equal(round_fp8(x), round_fp8(x.float()))
