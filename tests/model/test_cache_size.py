"""The cache's bytes against the formula by hand, and against the rows that a cache really holds."""

import pytest
import torch

from dsv4.config import Config, LayerKind
from dsv4.model.cache_size import cache_bytes, entry_row, gqa_bytes, key_row

MILLION = 1_048_576


def test_flash_by_hand():
    flash = Config.from_preset("flash")
    assert entry_row(flash) == 448 + 7 + 2 * 64 == 583
    assert key_row(flash) == 64 + 4 == 68
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


@pytest.mark.parametrize("tokens", [0, 3, 4, 200, 300])
def test_rows_are_those_of_a_cache(make_model, make_ids, tokens):
    """Ring slots, tail bytes and closed entries of a real cache, layer by layer."""
    model = make_model()
    config = model.config
    cache = model.new_cache(1)
    if tokens:
        with torch.inference_mode():
            model(make_ids(1, tokens), cache)
    window = entries = keys = tails = 0
    for layer, state in enumerate(cache.layers):
        window += state.window.data.shape[1] * entry_row(config)
        ratio = config.compress_ratios[layer]
        for part in (state.compressor, state.indexer):
            tails += 0 if part is None else part.tail.data.nbytes
        if state.compressor is not None:
            entries += cache.lengths[0] // ratio * entry_row(config)
            assert state.compressor.entries.data.shape[1] >= cache.lengths[0] // ratio
        if config.kind(layer) is LayerKind.CSA:
            keys += cache.lengths[0] // ratio * key_row(config)
    found = cache_bytes(config, tokens)
    assert found.window + found.tails + found.step_back == window + tails
    assert (found.entries, found.keys) == (entries, keys)
