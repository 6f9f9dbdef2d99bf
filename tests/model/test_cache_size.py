"""The cache's bytes against the formula by hand, and against the rows that a cache really holds."""

import math

import pytest
import torch

import dsv4
from dsv4.config import Config
from dsv4.model.cache_size import cache_bytes, gqa_bytes
from dsv4.quant.entries import entry_bytes, key_bytes

MILLION = 1_048_576


def test_flash_by_hand():
    flash = Config.from_preset("flash")
    assert entry_bytes(512, 64) == 448 + 7 + 2 * 64 == 583
    assert key_bytes(128) == 64 + 4 == 68
    found = cache_bytes(flash, MILLION)
    csa, hca = 21, 20  # of 43 layers; two see their window only
    assert found.entries == MILLION * 583 // 4 * csa + MILLION * 583 // 128 * hca
    assert found.keys == MILLION * 68 // 4 * csa
    assert found.window == 43 * 128 * 583
    assert found.tails == csa * 8 * 4 * 4 * (512 + 128) + hca * 128 * 4 * 2 * 512
    growing = (found.entries + found.keys) / MILLION
    assert growing == csa * (583 + 68) / 4 + hca * 583 / 128
    assert gqa_bytes(flash, 1) == 43 * 4096
    assert 0.019 < found.total / gqa_bytes(flash, MILLION) < 0.021  # the report: about 2%


def test_constant_parts_do_not_grow():
    pro = Config.from_preset("pro")
    small, large = cache_bytes(pro, 128), cache_bytes(pro, MILLION)
    for kind in ("window", "tails", "step_back"):
        assert getattr(small, kind) == getattr(large, kind) > 0
    assert large.entries == small.entries * MILLION // 128
    empty = cache_bytes(pro, 0)
    assert (
        empty.entries == empty.keys == 0 and empty.total == small.total - small.entries - small.keys
    )


@pytest.mark.parametrize("tokens", [0, 3, 256, 300])
def test_a_cache_holds_these_bytes(make_checkpoint, make_ids, tokens):
    """The bytes of a packed cache, whose last page has room for more entries."""
    model = dsv4.load(make_checkpoint())
    cache = model.new_cache(1)
    if tokens:
        with torch.inference_mode():
            model(make_ids(1, tokens).cpu(), cache)
    pages, spare = len(cache.sequences[0].pages), 0
    assert pages == math.ceil(tokens / cache.stores.page_tokens)
    for state in cache.layers:
        for entries in state.entries:
            held = pages * entries.page_rows
            spare += (held - tokens // entries.ratio) * entries.data.shape[2]
    assert cache.nbytes() - spare == cache_bytes(model.config, tokens).total
