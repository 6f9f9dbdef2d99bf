"""FP4 → FP8 re-blocking against an independent float64 formulation, and the ways back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.quant import fp4, fp8
from dsv4.quant.reblock import as_rounded, changed_blocks, fold

from .test_fp4 import e2m1_value
from .test_fp8 import e4m3_value

E2M1 = np.array([e2m1_value(code) for code in range(16)])
E4M3 = np.array([e4m3_value(byte) for byte in range(256)])
FINITE = np.unique(E4M3[np.isfinite(E4M3)])


def e8m0(exponents: np.ndarray) -> torch.Tensor:
    """Unbiased exponents → scales."""
    return torch.from_numpy((exponents + 127).astype(np.uint8)).view(torch.float8_e8m0fnu)


def pack(codes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)).view(
        torch.int8
    )


def check(codes: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Compare `fold` with the rule, block by block in float64; which blocks fit."""
    weight, scale, fits = fold(pack(codes), e8m0(exponents))
    assert (weight.dtype, scale.dtype) == (torch.float8_e4m3fn, torch.float8_e8m0fnu)
    assert tuple(weight.shape) == codes.shape
    values = E2M1[codes] * np.repeat(2.0 ** exponents.astype(np.float64), 32, axis=1)
    got = E4M3[weight.view(torch.uint8).numpy()]
    for i in range(-(-codes.shape[0] // 128)):
        for j in range(-(-codes.shape[1] // 128)):
            at = np.s_[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
            groups = exponents[at[0], 4 * j : 4 * j + 4]
            s = max(2.0 ** int(groups.max()) / 2**6, 2.0**-127)
            assert float(scale[i, j].double()) == s
            exact = bool(np.isin(values[at] / s, FINITE).all())
            assert bool(fits[i, j]) == exact
            if exact:
                np.testing.assert_array_equal(got[at] * s, values[at])
                np.testing.assert_array_equal(np.signbit(got[at]), np.signbit(values[at]))
            if groups.max() - groups.min() <= 14:
                assert exact
    return fits.numpy()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(1, 32), (128, 128), (129, 160), (200, 320), (3, 416)]),
    center=st.integers(-127, 127),
    spread=st.integers(0, 20),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_fold_equals_float64_formulation(shape, center, spread, zeros, seed):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 16, shape)
    codes[random.random(shape) < zeros] &= 8
    exponents = center + random.integers(-spread, 1, (shape[0], shape[1] // 32))
    check(codes, exponents.clip(-127, 127))


@pytest.mark.parametrize("byte", [0, 1, 5, 6, 7, 127, 253, 254])
def test_every_byte_of_codes_folds_at_any_scale(byte):
    codes = np.arange(16)[:, None].repeat(32, 1)
    assert check(codes, np.full((16, 1), byte - 127)).all()


@pytest.mark.parametrize(("span", "code", "fits"), [(14, 1, True), (15, 1, False), (15, 2, True)])
@pytest.mark.parametrize("bottom", [-127, -60, 100])
def test_the_limit_is_where_half_a_scale_falls_off(span, code, fits, bottom):
    codes = np.full((128, 256), 7)
    codes[5, 32:64] = code
    exponents = np.full((128, 8), bottom + span)
    exponents[5, 1] = bottom
    bounded = bottom + span - 6 < -127  # S cannot go below 2^-127: more room under it
    assert check(codes, exponents).tolist() == [[fits or bounded, True]]


def test_groups_of_zeros_do_not_count():
    """`fp4.quantize` gives them 2^-126, far below their neighbours."""
    weight = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    weight[::3] = 0
    packed, scale = fp4.quantize(weight)
    folded, new, fits = fold(packed, scale)
    assert fits.all()
    assert torch.equal(fp8.dequantize(folded, new), fp4.dequantize(packed, scale))


def test_all_zero_block_and_extreme_neighbours():
    codes = np.zeros((256, 128), np.int64)
    exponents = np.full((256, 4), -127)
    exponents[130] = 127  # zeros with the largest scale beside the smallest
    assert check(codes, exponents).all()
    codes[140] = 7  # ... 2^-127 · 6 is far below what 2^121 can hold
    assert check(codes, exponents).tolist() == [[True], [False]]


@pytest.mark.parametrize(
    ("spread", "want"), [(17, 2.0**-8), (18, 2.0**-9), (19, 0), (40, 0), (254, 0)]
)
def test_what_does_not_fit_is_the_nearest_and_flagged(spread, want):
    """Far below the block's scale a value rounds to zero; it is never taken for exact."""
    codes = np.full((1, 128), 7)
    exponents = np.array([[127, 127 - spread, 127, 127]])
    assert not check(codes, exponents).any()
    weight, _, _ = fold(pack(codes), e8m0(exponents))
    assert weight.float()[0, 0] == 384 and weight.float()[0, 32] == want


def test_empty_and_bad_input():
    weight, scale, fits = fold(torch.zeros(0, 64, dtype=torch.int8), e8m0(np.zeros((0, 4))))
    assert weight.shape == (0, 128) and scale.shape == (0, 1) and fits.shape == (0, 1)
    packed, scale = fp4.quantize(torch.ones(2, 64))
    not_a_number = torch.full((2, 2), 255, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    with pytest.raises(ValueError, match="scale of w1 holds NaN"):
        fold(packed, not_a_number, "w1")
    with pytest.raises(ValueError, match=r"scale of w1 has shape \[2, 1\]: must be \[2, 2\]"):
        fold(packed, scale[:, :1], "w1")
    with pytest.raises(ValueError, match=r"scale of w1 is torch.float32: .* float8_e8m0fnu"):
        fold(packed, scale.float(), "w1")


# ---- the ways back ---------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-90, 90), rows=st.integers(1, 140))
def test_fp4_comes_back_from_fp8_with_the_same_values(seed, exponent, rows):
    generator = torch.Generator().manual_seed(seed)
    packed, scale = fp4.quantize(torch.randn(rows, 96, generator=generator) * 2.0**exponent)
    values = fp4.dequantize(packed, scale)
    weight, new, fits = fold(packed, scale)
    assert fits.all()
    again = fp4.quantize(fp8.dequantize(weight, new))
    assert torch.equal(fp4.dequantize(*again), values)
    settled = as_rounded(*again)
    assert torch.equal(fp4.dequantize(*settled), values)
    # the bytes differ where a group ends at 6 and holds no 0.5 and no 1.5: it has a twin
    codes = fp4.unpack(packed).unflatten(1, (-1, 32)) % 8
    twin = (codes.amax(2) == 7) & ~((codes == 1) | (codes == 3)).any(2)
    same = (settled[1].view(torch.uint8) == scale.view(torch.uint8)) | twin
    assert same.all()
    assert torch.equal(
        settled[0].unflatten(1, (-1, 16))[~twin], packed.unflatten(1, (-1, 16))[~twin]
    )


def test_bytes_of_gaussian_weights_come_back():
    """Without `as_rounded` a quarter of the groups comes back with half its scale."""
    weight = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    packed, scale = fp4.quantize(weight)
    plain = fp4.quantize(fp4.dequantize(packed, scale, torch.bfloat16))
    other = (plain[1].view(torch.uint8) != scale.view(torch.uint8)).float().mean()
    assert 0.2 < other < 0.35
    settled = as_rounded(*plain)
    assert torch.equal(settled[0], packed)
    assert torch.equal(settled[1].view(torch.uint8), scale.view(torch.uint8))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), byte=st.integers(0, 254))
def test_as_rounded_keeps_every_value(seed, byte):
    random = np.random.default_rng(seed)
    even = random.random() < 0.5  # else hardly any group has a twin
    codes = random.choice([0, 2, 4, 5, 6, 7] if even else np.arange(8), (4, 64))
    codes |= random.choice([0, 8], codes.shape)
    exponents = np.full((4, 2), byte - 127)
    packed, scale = as_rounded(pack(codes), e8m0(exponents))
    want = E2M1[codes] * 2.0 ** (byte - 127)
    got = E2M1[fp4.unpack(packed).numpy()] * np.repeat(scale.double().numpy(), 32, axis=1)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-6, 60), rows=st.integers(1, 140))
def test_fp8_comes_back_from_bf16(seed, exponent, rows):
    """The same values; the same bytes in every block whose largest code is above 224."""
    generator = torch.Generator().manual_seed(seed)
    codes, scale = fp8.quantize(torch.randn(rows, 130, generator=generator) * 2.0**exponent)
    bf16 = fp8.dequantize(codes, scale, torch.bfloat16)
    again, new = fp8.quantize(bf16)
    assert torch.equal(fp8.dequantize(again, new), fp8.dequantize(codes, scale))
    for j in range(2):
        for i in range(-(-rows // 128)):
            at = np.s_[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
            largest = codes[at].float().abs().max()
            if largest > 224:
                assert torch.equal(again[at].view(torch.uint8), codes[at].view(torch.uint8))
            halved = 1 if largest > 224 else 2  # rounded down to 224: half the scale fits
            assert new[i, j].double() * halved == scale[i, j].double()


def test_changed_blocks_counts_the_remainders():
    before = torch.zeros(130, 70)
    after = before.clone()
    after[129, 69] = 1
    assert changed_blocks(before, after, (128, 64)).tolist() == [[False, False], [False, True]]
    assert changed_blocks(before, after, (1, 32)).nonzero().tolist() == [[129, 2]]
    assert not changed_blocks(before, before, (128, 128)).any()
