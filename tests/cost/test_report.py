"""The report's claims, the JSON, and what is refused."""

import json

import pytest

from dsv4 import Config
from dsv4.cost import cost


@pytest.mark.parametrize("preset, flops, cache", [("pro", 0.27, 0.10), ("flash", 0.10, 0.07)])
def test_efficiency_at_a_million_tokens(preset, flops, cache):
    found = cost(Config.from_preset(preset), 10**6, against_v32=True).dict()
    assert round(found["ratio"]["flops"], 2) == flops
    assert round(found["ratio"]["kv_cache"], 2) == cache
    assert round(found["kv_cache_of_gqa8"], 2) == 0.02
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    "preset, total, activated", [("flash", 290_942_289_362, 13.8e9), ("pro", 1.6e12, 49.8e9)]
)
def test_parameters_by_their_rules(preset, total, activated):
    found = cost(Config.from_preset(preset), 4096)
    assert found.total_parameters == total or abs(found.total_parameters / total - 1) < 0.03
    assert abs(found.activated_parameters / activated - 1) < 0.005
    config = Config.from_preset(preset)
    gap = found.activated_parameters - found.multiplied_parameters
    assert gap == config.vocab_size * config.hidden_size


def test_more_context_never_costs_less():
    config, before = Config.from_preset("nano"), None
    for context in (1, 10, 100, 257, 1000, 10**4, 10**5, 10**6):
        now = cost(config, context)
        if before is not None:
            assert now.token.total >= before.token.total and now.kv_cache >= before.kv_cache
            assert now.prompt.total > before.prompt.total
        before = now


@pytest.mark.parametrize("context", [0, -1, 1_048_577])
def test_a_context_that_the_model_lacks(context):
    with pytest.raises(ValueError, match="must be 1 to 1048576"):
        cost(Config.from_preset("flash"), context)
