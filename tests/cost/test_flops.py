"""The formulas against the products that torch counts, and against the report."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dsv4 import Config, Transformer
from dsv4.cost import baseline, flops
from dsv4.model.span import Span
from dsv4.ops import native


def counted(run):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("context", [1, 3, 16, 17, 36, 37, 129, 300])
def test_a_decoded_token_is_what_torch_counts(make_config, context, monkeypatch):
    """Every product of the plain forward, one token at the end of `context`, exactly."""
    monkeypatch.setattr(native, "trainer", lambda *tensors: None)  # torch counts its own products
    config = make_config()
    model = Transformer(config)
    model.initialize(0)
    ids = torch.randint(97, (1, context))
    cache = model.new_cache(1)
    with torch.no_grad():
        if context > 1:
            model.streams(ids[:, :-1], cache)
    found = counted(lambda: model(ids[:, -1:], cache))
    assert found == flops.token(config, context).total


@pytest.mark.parametrize("preset, context", [("flash", 4096), ("pro", 70_001), ("pro", 10**6)])
def test_full_size_on_meta_tensors(preset, context):
    """The attention sub-layers of a layer of each kind at the released size; no memory."""
    config = Config.from_preset(preset).replace(
        num_hidden_layers=3,
        compress_ratios=(0, 4, 128, 0),
        quantization_config=None,
        expert_dtype=None,
    )
    with torch.device("meta"):
        model = Transformer(config, torch.bfloat16).to("meta")
    cache = model.new_cache(1)
    cache.sequences[0].length = context - 1
    cache.reserve([1])
    span = Span([context - 1], 1, [1], config.sliding_window, "meta", cache.sequences)
    x = torch.empty(1, 1, 4, config.hidden_size, dtype=torch.bfloat16, device="meta")

    def attend():
        for layer, state in zip(model.layers, cache.layers, strict=True):
            layer.attend(x, span, state)

    parts = flops.token(config, context).parts
    d, hc = config.hidden_size, config.hc_mult
    mix = 3 * (2 * (2 + hc) * hc * hc * d + 39 * 2 * hc**4 + 2 * hc * d + 2 * hc * hc * d)
    head = 2 * hc * hc * d + 2 * hc * d
    names = ("attention linears", "compressors", "indexer linears", "attention", "index")
    assert counted(attend) == sum(parts[name] for name in names) + parts["mHC"] - head - mix


@pytest.mark.parametrize("tokens", [1, 5, 35, 36, 37, 200])
def test_a_prompt_is_its_tokens(make_config, tokens):
    config = make_config()
    each = [flops.token(config, t).parts for t in range(1, tokens + 1)]
    found = flops.prompt(config, tokens).parts
    for part in found:
        expected = each[-1][part] if part == "head" else sum(one[part] for one in each)
        assert found[part] == expected, part


def test_the_report():
    """At a million tokens: 27% and 10% of V3.2's FLOPs, within rounding."""
    base = baseline.token(10**6).fp8
    ratios = [flops.token(Config.from_preset(p), 10**6).fp8 / base for p in ("pro", "flash")]
    assert [round(ratio, 2) for ratio in ratios] == [0.27, 0.10]


def test_v32_has_its_published_activated_parameters():
    """37B, the embedding's one row apart: 2 FLOPs for each."""
    parts = baseline.token(1).parts
    linears = sum(v for k, v in parts.items() if k not in ("attention", "index in FP8"))
    assert 37.0e9 < linears / 2 < 38.0e9
