"""Bytes against the published totals; times, fits and prices by hand."""

import pytest

from dsv4 import Config
from dsv4.checkpoint.inventory import of_config
from dsv4.cost import baseline, memory, price
from dsv4.cost.report import held_bytes


@pytest.mark.parametrize("preset", ["flash", "pro", "flash-0731", "nano"])
def test_weights_are_those_of_the_files(preset):
    config = Config.from_preset(preset)
    found, counted = memory.weights(config), of_config(config)
    assert found.by_dtype == counted.bytes_by_dtype
    assert (found.total, found.draft) == (counted.bytes, counted.mtp_bytes)
    assert found.chosen * config.n_routed_experts == found.routed * config.num_experts_per_tok
    assert found.dense < found.main - found.routed


def test_flash_by_hand():
    """Six experts a layer of 4 bits a number, with a scale of 32; the rest FP8 and BF16."""
    config = Config.from_preset("flash")
    found = memory.weights(config)
    routed = 43 * 6 * 3 * 4096 * 2048
    assert found.chosen == routed // 2 + routed // 32
    assert found.activated == found.dense + found.chosen
    assert found.total == 159_609_485_896


def test_a_token_takes_the_longer_of_reading_and_multiplying():
    assert memory.seconds(100, 10, bandwidth=10, rate=100) == 10
    assert memory.seconds(10, 1000, bandwidth=10, rate=100) == 10


def test_fits():
    config = Config.from_preset("flash")
    weights, cache = memory.weights(config), held_bytes(config, 10**6)
    rows = {row.machine: row for row in memory.fits(config, weights, cache)}
    big = rows["8 x 141 GB accelerators"]
    assert big.sequences == (big.memory - weights.main) // cache > big.with_draft > 100
    small = rows["laptop, 16 GB"]
    assert small.sequences == small.with_draft == 0 and small.capped
    pro = Config.from_preset("pro")
    large = memory.fits(pro, memory.weights(pro), held_bytes(pro, 10**6))
    assert [row.capped for row in large[:3]] == [False, False, True]
    capped = {row.machine: row for row in memory.fits(config, weights, cache, cap=20 << 30)}
    assert capped["8 x 141 GB accelerators"].memory == 20 << 30
    assert capped["8 x 141 GB accelerators"].sequences == 0


def test_a_conversation_by_hand():
    """Three turns of 10 after 100, replies of 5: prompts of 110, 125 and 140."""
    bill = price.conversation(3, 100, 10, 5, price.Prices(hit=1, miss=10, out=20))
    assert (bill.hits, bill.misses, bill.out) == (0 + 115 + 130, 110 + 10 + 10, 15)
    assert bill.price == (245 * 1 + 130 * 10 + 15 * 20) / 1e6
    assert bill.without_cache == (375 * 10 + 15 * 20) / 1e6
    with pytest.raises(ValueError, match="0 turns"):
        price.conversation(0, 1, 1, 1, price.Prices(1, 1, 1))


def test_v32_cache():
    assert baseline.cache_bytes(1) == 61 * (512 + 16 + 128 + 128 + 4)
