"""NaN, infinity and the ends of the scales: all instruction sets give what plain operators do.

One number of one tensor is poisoned at a time, whatever the tensor is; a sub-layer is run with it.
"""

import pytest
import torch

import dsv4
from dsv4.model.cache import SequenceState
from dsv4.model.handed import UnsupportedError
from dsv4.model.span import Span
from dsv4.model.twin import HeadTwin, LayerTwin
from dsv4.ops import native

module = native.module()
pytestmark = pytest.mark.skipif(module is None, reason="the native module is not built")

SHAPE = {
    "num_hidden_layers": 3,
    "compress_ratios": [0, 4, 16, 0],
    "num_hash_layers": 1,
    "index_head_dim": 64,  # as byte products where the machine has them
    "index_topk": 3,
}
POISONS = {
    torch.float8_e8m0fnu: [255, 1, 0],  # sums that overflow depend on their order
    torch.float8_e4m3fn: [0x7F, 0xFF],
    torch.float32: [torch.nan, torch.inf, -torch.inf],
    torch.bfloat16: [torch.nan, torch.inf, -torch.inf],
}


@pytest.fixture(scope="module")
def models(make_checkpoint):
    """By how they compute: packed models whose tensors may be written to."""
    folder = make_checkpoint(spread=0.05, **SHAPE)
    return {mode: dsv4.load(folder, mode=mode, copy=True) for mode in ("fast", "exact")}


@pytest.fixture(autouse=True)
def best_kernels():
    best = module.kernels()
    yield
    module.choose_kernels(best)


def tensors(block):
    """Name → tensor, one expert for all of them."""
    yield from block.named_parameters()
    yield from block.named_buffers()
    for name in ("w1", "w2", "w3"):
        yield f"experts.{name}", getattr(block.ffn.experts, name)[1]
        yield f"experts.{name}_scale", getattr(block.ffn.experts, f"{name}_scale")[1]


def poisoned(tensor):
    """Each poison in its place, which is put right afterwards."""
    flat = tensor.data.view(-1)
    raw = flat.view(torch.uint8) if tensor.dtype.itemsize == 1 else flat
    place = len(raw) // 3
    for poison in POISONS.get(tensor.dtype, []):
        kept = raw[place].item()
        raw[place] = poison
        yield poison
        raw[place] = kept


def assert_alike(found, expected, what):
    """The last token sees everything. An earlier one gets 0 · NaN of later entries from the plain
    operators, which mask what the native ones do not read.
    """
    found, expected = found.float(), expected.float()
    assert torch.equal(found[:, -1].isfinite(), expected[:, -1].isfinite()), what
    finite = expected.isfinite()
    assert found[finite].isfinite().all(), what
    error = (found - expected)[finite].abs()
    if len(error):
        assert error.median() <= 2e-3 * expected[finite].abs().median() + 1e-30, what


def span_of(config, x):
    n = x.shape[1]
    places = [SequenceState.whole(config, 0, n)]
    return Span([0], n, [n], config.sliding_window, x.device, places)


def run(block, name, x, ids):
    """The sub-layer of a block, or of its twin, that a tensor belongs to."""
    span = span_of(block.config, x)
    if name.startswith(("ffn", "hc_ffn", "experts")):
        return block.mix(x.clone(), ids, span)
    return block.attend(x.clone(), span, None)


def compare(model, layer, x, ids):
    block, seen = model.layers[layer], 0
    for name, tensor in tensors(block):
        for poison in poisoned(tensor):
            expected = run(block, name, x, ids)
            try:
                twin = LayerTwin(module, block, layer)
            except UnsupportedError:  # a scale of FP8: plain operators run it
                assert tensor.dtype is torch.float8_e8m0fnu
                continue
            for kernels in module.kernel_names():
                assert module.choose_kernels(kernels)
                found = run(twin, name, x, ids)
                assert_alike(found, expected, (name, poison, kernels, tuple(x.shape)))
                seen += 1
    return seen


CASES = [("fast", 0, 1), ("exact", 0, 2), ("fast", 1, 24), ("exact", 1, 24)]


@pytest.mark.parametrize(("mode", "layer", "tokens"), CASES)
def test_sublayers_lose_no_nan_and_no_infinity(models, mode, layer, tokens):
    """By token id in a window, and learned with all that compresses and chooses."""
    model = models[mode]
    ids = torch.randint(97, (1, tokens))
    x = torch.randn(1, tokens, model.config.hc_mult, model.config.hidden_size).to(model.dtype)
    with torch.no_grad():
        assert compare(model, layer, x, ids) >= 30 * len(module.kernel_names())


def head_tensors(model):
    yield from ((name, getattr(model, name)) for name in ("hc_head_fn", "hc_head_base"))
    yield from (("hc_head_scale", model.hc_head_scale), ("norm", model.norm.weight))
    yield "head", model.head.weight


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_the_head_loses_no_nan_and_no_infinity(models, mode):
    model = models[mode]
    x = torch.randn(1, 3, model.config.hc_mult, model.config.hidden_size).to(model.dtype)
    for name, tensor in head_tensors(model):
        for poison in poisoned(tensor):
            with torch.no_grad():
                expected, twin = model.head(model.collapse(x)), HeadTwin(module, model)
                for kernels in module.kernel_names():
                    assert module.choose_kernels(kernels)
                    assert_alike(twin.logits(x), expected, (name, poison, kernels))


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("poison", POISONS[torch.float32])
def test_streams_that_hold_them_go_on_as_plain_ones(models, mode, poison):
    model, ids = models[mode], torch.randint(97, (1, 6))
    with torch.no_grad():
        x = model.embed.weight[ids].to(model.dtype).unsqueeze(2)
        x = x.repeat(1, 1, model.config.hc_mult, 1)
        x[0, 2, 1, 5] = poison
        for layer, block in enumerate(model.layers):
            for kernels in module.kernel_names():
                assert module.choose_kernels(kernels)
                run = [span_of(model.config, x) for _ in "ab"]
                for found, expected in (
                    (block.twin.attend(x.clone(), run[0], None), block.attend(x, run[1], None)),
                    (block.twin.mix(x.clone(), ids, run[0]), block.mix(x, ids, run[1])),
                ):
                    assert_alike(found, expected, (layer, kernels))


def test_a_table_that_was_written_to_is_an_error(models):
    model = models["fast"]
    table, ids = model.layers[0].ffn.gate.tid2eid, torch.tensor([[5, 6]])
    kept = table.clone()
    with torch.no_grad():
        for wrong in (8, -1, 1 << 40):
            table[6, 1] = wrong
            with pytest.raises(ValueError, match=f"tid2eid sends token 6 to expert {wrong} of 8"):
                model(ids)
        table.copy_(kept)
        assert model(ids).isfinite().all()
