"""FP4 blocks against an independent float64 formulation of E2M1 and of the scale rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.quant import fp4


def e2m1_value(code: int) -> float:
    """1 sign, 2 exponent (bias 1), 1 mantissa bit; exponent 0 is subnormal."""
    sign, exponent, mantissa = -1.0 if code & 8 else 1.0, (code >> 1) & 3, code & 1
    return sign * (mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


POSITIVE = np.array([e2m1_value(code) for code in range(8)])


def expected_scale(amax: float) -> float:
    """The smallest power of two s with 6·s ≥ max(amax, 6·2^-126), by trial."""
    s = 2.0**-126
    while s * 6 < amax:
        s *= 2
    return s


def expected_code(value: float) -> int:
    """Nearest of the 8 magnitudes in float64; of two equally near ones the even code."""
    distance = np.abs(POSITIVE - min(abs(value), 6.0))
    nearest = np.flatnonzero(distance == distance.min())
    code = int(nearest[0] if len(nearest) == 1 or nearest[0] % 2 == 0 else nearest[1])
    return code | (8 if np.signbit(value) else 0)


def assert_as_expected(weight: np.ndarray) -> None:
    packed, scale = fp4.quantize(torch.from_numpy(weight))
    assert (packed.dtype, scale.dtype) == (torch.int8, torch.float8_e8m0fnu)
    for r, row in enumerate(weight.astype(np.float64)):
        for b, block in enumerate(row.reshape(-1, 32)):
            s = expected_scale(float(np.abs(block).max()))
            assert float(scale[r, b].double()) == s
            codes = [expected_code(value / s) for value in block]
            pairs = zip(codes[0::2], codes[1::2], strict=True)
            want = [low + 16 * high for low, high in pairs]
            assert packed[r, 16 * b : 16 * b + 16].view(torch.uint8).tolist() == want


@settings(max_examples=30, deadline=None)
@given(exponent=st.integers(-100, 100), spread=st.integers(0, 12), seed=st.integers(0, 2**31))
def test_quantize_equals_float64_formulation(exponent, spread, seed):
    random = np.random.default_rng(seed)
    sizes = 2.0 ** (exponent + random.integers(-spread, 1, (3, 96)))
    assert_as_expected((random.standard_normal((3, 96)) * sizes).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=32, max_size=32)
)
def test_quantize_any_finite_values(values):
    assert_as_expected(np.array([values], np.float32))


def test_every_code_decodes_to_its_value():
    codes = torch.arange(16, dtype=torch.uint8)
    values = [e2m1_value(code) for code in range(16)]
    assert fp4.decode(codes).double().tolist() == values
    assert torch.equal(fp4.encode(torch.tensor(values)), codes)  # -0 keeps its sign


def test_every_byte_unpacks_and_packs():
    every = torch.arange(256, dtype=torch.uint8).view(4, 64)
    codes = fp4.unpack(every.view(torch.int8))
    assert torch.equal(codes[:, 0::2], every % 16) and torch.equal(codes[:, 1::2], every // 16)
    assert torch.equal(fp4.pack(codes).view(torch.uint8), every)


def test_ties_and_their_neighbours():
    middles = ((POSITIVE[1:] + POSITIVE[:-1]) / 2).astype(np.float32)
    near = [np.nextafter(middles, np.float32(side)) for side in (0, 9)]
    values = np.concatenate([middles, *near, [6.0, 7.0, 1e30, 1e-40]]).astype(np.float32)
    values = np.concatenate([values, -values])
    want = [expected_code(float(value)) for value in values]
    assert fp4.encode(torch.from_numpy(values)).tolist() == want


@pytest.mark.parametrize("above", [0, 1])
@pytest.mark.parametrize("exponent", [-120, 0, 120])
def test_scale_steps_exactly_at_6_times_a_power_of_two(exponent, above):
    amax = np.float32(6 * 2.0**exponent)
    amax = np.nextafter(amax, np.float32(np.inf)) if above else amax
    _, scale = fp4.quantize(torch.full((1, 32), float(amax)))
    assert scale.double().item() == 2.0 ** (exponent + above)


def test_zeros_and_subnormals_have_the_scale_of_the_floor():
    packed, scale = fp4.quantize(torch.full((2, 64), 1e-42))
    assert (scale.double() == 2.0**-126).all() and not packed.any()
    packed, scale = fp4.quantize(torch.zeros(2, 64))
    assert (scale.double() == 2.0**-126).all() and not packed.any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_quantized_values_survive_a_second_round(seed):
    weight = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(seed))
    packed, scale = fp4.quantize(weight)
    assert packed.shape == (2, 5, 32) and scale.shape == (2, 5, 2)
    values = fp4.dequantize(packed, scale)
    assert torch.equal(fp4.dequantize(*fp4.quantize(values)), values)
    assert torch.equal(fp4.dequantize(packed, scale.float(), torch.bfloat16).float(), values)
    assert (values - weight).abs().max() <= weight.abs().max() / 4


def test_rejected_by_name():
    weight = torch.ones(2, 64)
    with pytest.raises(ValueError, match="w1 has rows of 48: FP4 blocks need a multiple of 32"):
        fp4.quantize(weight[:, :48], "w1")
    packed, scale = fp4.quantize(weight)
    with pytest.raises(ValueError, match="scale of w1 holds NaN"):
        fp4.dequantize(packed, scale.float() * torch.nan, name="w1")
    with pytest.raises(ValueError, match=r"scale of w1 has shape \[2, 1\]: must be \[2, 2\]"):
        fp4.dequantize(packed, scale[:, :1], name="w1")
    for bad in (torch.nan, torch.inf):
        weight[1, 63] = bad
        with pytest.raises(ValueError, match="w1 holds NaN or infinity"):
            fp4.quantize(weight, "w1")


def test_every_scale_byte_is_its_power_of_two():
    packed = torch.full((1, 16 * 253), 0x22, dtype=torch.int8)  # twice the code of 1
    scale = torch.arange(253, dtype=torch.uint8).view(1, -1).view(torch.float8_e8m0fnu)
    got = fp4.dequantize(packed, scale).double()[0, ::32].tolist()
    assert got == [2.0 ** (byte - 127) for byte in range(253)]


@pytest.mark.parametrize("code", range(16))
def test_smallest_and_largest_scale_are_exact(code):
    packed = torch.full((1, 16), code | code << 4).to(torch.uint8).view(torch.int8)
    for byte in (0, 124, 254):
        scale = torch.full((1, 1), byte, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        want = e2m1_value(code) * 2.0 ** (byte - 127)
        if abs(want) > float(np.finfo(np.float32).max):
            with pytest.raises(ValueError, match="w1 holds NaN or infinity"):
                fp4.dequantize(packed, scale, name="w1")
        else:
            assert set(fp4.dequantize(packed, scale).double().flatten().tolist()) == {want}


def test_nan_scale_byte_and_infinities_are_rejected():
    packed, scale = fp4.quantize(torch.ones(2, 64))
    not_a_number = torch.full((2, 2), 255, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    with pytest.raises(ValueError, match="scale of w1 holds NaN"):
        fp4.dequantize(packed, not_a_number, name="w1")
    with pytest.raises(ValueError, match="scale of w1 holds NaN or infinity"):
        fp4.dequantize(packed, scale.float() * torch.inf, name="w1")
    with pytest.raises(ValueError, match="scale of w1 holds 0: must be positive"):
        fp4.dequantize(packed, scale.float() * 0, name="w1")
    with pytest.raises(ValueError, match="w1 holds NaN or infinity"):
        fp4.quantize(torch.full((1, 32), -torch.inf), "w1")


def test_largest_float32_and_all_zero_neighbour():
    weight = np.zeros((2, 64), np.float32)
    weight[1, 40] = -np.finfo(np.float32).max
    weight[1, 41] = 2.0**126
    assert_as_expected(weight)
