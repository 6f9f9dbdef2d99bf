"""FP8 blocks against an independent float64 formulation of E4M3 and of the scale rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.quant import fp8


def e4m3_value(byte: int) -> float:
    """1 sign, 4 exponent (bias 7), 3 mantissa bits; exponent 0 is subnormal, S.1111.111 is NaN."""
    sign, exponent, mantissa = -1.0 if byte & 128 else 1.0, (byte >> 3) & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    magnitude = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return sign * magnitude


POSITIVE = np.array([e4m3_value(byte) for byte in range(127)])


def expected_scale(amax: float) -> float:
    """The smallest power of two s with 448·s ≥ max(amax, 1e-4), by trial."""
    amax, s = max(amax, float(np.float32(1e-4))), 2.0**-60
    while s * 448 < amax:
        s *= 2
    return s


def expected_code(value: float) -> int:
    """Nearest of the 127 magnitudes in float64; of two equally near ones the even code."""
    distance = np.abs(POSITIVE - min(abs(value), 448.0))
    nearest = np.flatnonzero(distance == distance.min())
    code = int(nearest[0] if len(nearest) == 1 or nearest[0] % 2 == 0 else nearest[1])
    return code | (128 if np.signbit(value) else 0)


def expected(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = -(-weight.shape[0] // 128), -(-weight.shape[1] // 128)
    codes, scales = np.zeros(weight.shape, np.uint8), np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            at = np.s_[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
            scales[i, j] = expected_scale(float(np.abs(weight[at]).max()))
            ratios = weight[at].astype(np.float64) / scales[i, j]
            codes[at] = [[expected_code(value) for value in row] for row in ratios]
    return codes, scales


def assert_as_expected(weight: np.ndarray) -> None:
    codes, scale = fp8.quantize(torch.from_numpy(weight))
    want_codes, want_scale = expected(weight)
    assert (scale.dtype, codes.dtype) == (torch.float8_e8m0fnu, torch.float8_e4m3fn)
    np.testing.assert_array_equal(scale.double().numpy(), want_scale)
    np.testing.assert_array_equal(codes.view(torch.uint8).numpy(), want_codes)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(1, 1), (1, 129), (130, 3), (40, 20)]),
    exponent=st.integers(-40, 40),
    spread=st.integers(0, 24),
    seed=st.integers(0, 2**31),
)
def test_quantize_equals_float64_formulation(shape, exponent, spread, seed):
    random = np.random.default_rng(seed)
    sizes = 2.0 ** (exponent + random.integers(-spread, 1, shape))
    assert_as_expected((random.standard_normal(shape) * sizes).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_quantize_any_finite_values(values):
    assert_as_expected(np.array([values], np.float32))


def test_every_byte_decodes_to_its_value():
    codes = torch.arange(256, dtype=torch.uint8)
    finite = codes[(codes & 127) != 127]
    scale = torch.ones(1, 2).to(torch.float8_e8m0fnu)
    got = fp8.dequantize(finite.view(1, -1).view(torch.float8_e4m3fn), scale)
    assert got.double().tolist() == [[e4m3_value(int(byte)) for byte in finite]]


def test_every_scale_byte_is_its_power_of_two():
    codes = torch.ones(128, 128 * 255).to(torch.float8_e4m3fn)
    scale = torch.arange(255, dtype=torch.uint8).view(1, -1).view(torch.float8_e8m0fnu)
    got = fp8.dequantize(codes, scale)[5, ::128].double().tolist()
    assert got == [2.0 ** (byte - 127) for byte in range(255)]


def test_ties_go_to_the_even_code_and_the_largest_saturates():
    middles = (POSITIVE[1:] + POSITIVE[:-1]) / 2
    weight = np.concatenate([[448.0], middles, -middles, [2.0**-10, -(2.0**-10), -0.0]])
    assert_as_expected(weight.astype(np.float32)[None])


@pytest.mark.parametrize("above", [0, 1])
@pytest.mark.parametrize("exponent", [-20, 0, 30])
def test_scale_steps_exactly_at_448_times_a_power_of_two(exponent, above):
    amax = np.float32(448 * 2.0**exponent)
    amax = np.nextafter(amax, np.float32(np.inf)) if above else amax
    _, scale = fp8.quantize(torch.tensor([[float(amax)]]))
    assert scale.item() == 2.0 ** (exponent + above)


def test_zero_block_has_the_scale_of_the_floor():
    codes, scale = fp8.quantize(torch.zeros(200, 130))
    assert (scale.double() == 2.0**-22).all() and scale.shape == (2, 2)
    assert not codes.view(torch.uint8).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 260), columns=st.integers(1, 260))
def test_quantized_values_survive_a_second_round(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    values = fp8.dequantize(*fp8.quantize(weight))
    assert torch.equal(fp8.dequantize(*fp8.quantize(values)), values)
    assert torch.equal(fp8.dequantize(*fp8.quantize(values), torch.bfloat16).float(), values)
    assert (values - weight).abs().max() <= weight.abs().max() / 16


def test_float32_scale_that_is_no_power_of_two_is_multiplied():
    codes, _ = fp8.quantize(torch.full((3, 3), 448.0))
    assert (fp8.dequantize(codes, torch.tensor([[0.75]])) == 336.0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_is_rejected_by_name(bad):
    weight = torch.ones(3, 130)
    weight[2, 129] = bad
    with pytest.raises(ValueError, match=r"attn\.wkv holds NaN or infinity"):
        fp8.quantize(weight, "attn.wkv")


def test_bad_codes_scales_and_shapes_are_rejected_by_name():
    codes, scale = fp8.quantize(torch.ones(3, 130))
    not_a_number = torch.full((3, 130), 127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="wkv holds NaN"):
        fp8.dequantize(not_a_number, scale, name="wkv")
    for bad, words in {
        scale.float() * torch.nan: "scale of wkv holds NaN",
        -scale.float(): "scale of wkv holds -.*must be positive",
        scale.float().half(): "scale of wkv is torch.float16",
        scale.float()[:, :1]: r"scale of wkv has shape \[1, 1\]: must be \[1, 2\]",
    }.items():
        with pytest.raises(ValueError, match=words):
            fp8.dequantize(codes, bad, name="wkv")
    with pytest.raises(ValueError, match=r"wkv has shape \[4\]: FP8 blocks need a matrix"):
        fp8.quantize(torch.ones(4), "wkv")


def test_nan_scale_byte_and_overflow_are_rejected():
    codes, scale = fp8.quantize(torch.ones(3, 130))
    not_a_number = torch.full((1, 2), 255, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    with pytest.raises(ValueError, match="scale of wkv holds NaN"):
        fp8.dequantize(codes, not_a_number, name="wkv")
    largest = torch.full((1, 2), 254, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    with pytest.raises(ValueError, match="wkv holds NaN or infinity"):
        fp8.dequantize(codes, largest, name="wkv")  # 256 · 2^127 is no float32
    with pytest.raises(ValueError, match="scale of wkv holds NaN or infinity"):
        fp8.dequantize(codes, scale.float() * torch.inf, name="wkv")


def test_subnormal_codes():
    """Below 2^-6 · scale steps are 2^-9: rounded to even there, to zero at half a step."""
    steps = np.array([0.25, 0.5, 0.75, 1, 1.5, 2.5, 3.5, 7.25, 7.5]) * 2.0**-9
    assert_as_expected(np.concatenate([[448.0], steps, -steps]).astype(np.float32)[None])
    codes, _ = fp8.quantize(torch.tensor([[448.0, 2.0**-10, 3 * 2.0**-10]]))
    assert codes.view(torch.uint8)[0, 1:].tolist() == [0, 2]


def test_smallest_scale_times_smallest_code_is_exact():
    tiny = torch.zeros(1, 1, dtype=torch.uint8).view(torch.float8_e8m0fnu)  # 2^-127
    codes = torch.arange(1, 127, dtype=torch.uint8).view(1, -1).view(torch.float8_e4m3fn)
    got = fp8.dequantize(codes, tiny).double().tolist()
    assert got == [[value * 2.0**-127 for value in POSITIVE[1:]]]


def test_largest_float32_and_all_zero_neighbour():
    largest = float(np.finfo(np.float32).max)
    weight = np.zeros((2, 256), np.float32)
    weight[0, 128] = -largest
    assert_as_expected(weight)
