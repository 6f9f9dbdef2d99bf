"""Rows of the cache, byte by byte, against the float64 formulation of tests/formats.py."""

import struct

import formats
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.quant.entries import (
    entry_bytes,
    key_bytes,
    pack_entry,
    pack_key,
    unpack_entry,
    unpack_key,
)


def rows(seed, channels, spread):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, channels, generator=generator)
    return x * 2.0 ** torch.randint(-spread, spread + 1, x.shape, generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    plain=st.integers(0, 200),
    pairs=st.integers(1, 40),
    spread=st.sampled_from([0, 4, 30]),
)
def test_entries_hold_the_nearest_values(seed, plain, pairs, spread):
    r = 2 * pairs
    x = rows(seed, plain + r, spread)
    packed = pack_entry(x, r)
    assert packed.dtype is torch.uint8 and packed.shape == (2, 3, entry_bytes(plain + r, r))
    want = torch.cat((formats.fp8(x[..., :plain], 64), formats.bf16(x[..., plain:])), -1)
    for dtype in (torch.float32, torch.bfloat16):
        found = unpack_entry(packed, plain + r, r, dtype)
        assert found.dtype is dtype and torch.equal(found.double(), want)
    # a second round may halve a scale (an amax that fell to 224 · 2^k), but changes no value
    assert torch.equal(unpack_entry(pack_entry(want.float(), r), plain + r, r).double(), want)


def test_an_entry_by_hand():
    x = torch.zeros(1, 66 + 2)
    x[0, :3] = torch.tensor([448.0, -17.0, 2.0**-9])
    x[0, 65] = 0.5  # alone in the shorter last block
    x[0, 66:] = torch.tensor([1.0, -3.0])
    row = bytes(pack_entry(x, 2)[0].tolist())
    assert len(row) == entry_bytes(68, 2) == 66 + 4 + 2
    assert row[:4] == bytes([0x7E, 0x80 | 0x58, 0x01, 0]) and row[65] == 0x78  # 0.5 = 256 · 2^-9
    assert struct.unpack("<2H", row[66:70]) == (0x3F80, 0xC040)  # bfloat16, little endian
    assert row[70:] == bytes([127, 127 - 9])  # 2^0, and 2^-9: 448 · 2^-10 < 0.5


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), pairs=st.integers(1, 70), spread=st.sampled_from([0, 4, 30, 60]))
def test_keys_hold_the_nearest_values(seed, pairs, spread):
    x = rows(seed, 2 * pairs, spread)
    packed = pack_key(x)
    assert packed.dtype is torch.uint8 and packed.shape == (2, 3, key_bytes(2 * pairs))
    found = unpack_key(packed, 2 * pairs)
    assert torch.equal(found.double(), formats.fp4(x))
    # a second round may halve a scale (an amax that fell to 3 · 2^k), but changes no value
    assert torch.equal(unpack_key(pack_key(found), 2 * pairs), found)


def test_a_key_by_hand():
    x = torch.zeros(1, 34)
    x[0, :4] = torch.tensor([6.0, -0.5, 2.5, 5.0])
    x[0, 32:] = torch.tensor([-3.0, 0.75])
    row = bytes(pack_key(x)[0].tolist())
    assert len(row) == key_bytes(34) == 17 + 2
    # codes 7 and −1; 2 (a tie) and 4 (a tie): the even column in the low nibble
    assert row[:2] == bytes([7 | 9 << 4, 4 | 6 << 4])
    assert row[16] == (15 | 3 << 4) and row[17:] == bytes([127, 126])  # 6 and 1.5 of 2^-1


@pytest.mark.parametrize("magnitude", [0.0, 2.0**-149, 2.0**-126, 1e-5, 2.5e38])
def test_zeros_and_extremes(magnitude):
    x = torch.full((1, 80), magnitude)
    x[0, 1::2] *= -0.5
    want = torch.cat((formats.fp8(x[:, :64], 64), x[:, 64:].bfloat16().double()), -1)
    assert torch.equal(unpack_entry(pack_entry(x, 16), 80, 16).double(), want)
    assert torch.equal(unpack_key(pack_key(x), 80).double(), formats.fp4(x))


def test_not_finite_is_seen_again():
    x = torch.ones(2, 80)
    x[0, 3] = torch.nan
    assert unpack_entry(pack_entry(x, 16), 80, 16)[0, :64].isnan().all()
    assert unpack_key(pack_key(x), 80)[0, :32].isnan().all()
    assert unpack_key(pack_key(x), 80)[0, 32:].isfinite().all()


def test_rows_of_zero_bytes_are_zeros():
    """What a fresh store holds decodes to something finite."""
    empty = torch.zeros(3, entry_bytes(80, 16), dtype=torch.uint8)
    assert not unpack_entry(empty, 80, 16).any()
    assert not unpack_key(torch.zeros(3, key_bytes(80), dtype=torch.uint8), 80).any()


def test_released_sizes():
    assert entry_bytes(512, 64) == 448 + 128 + 7 and key_bytes(128) == 64 + 4
