"""Packed models: the rounding of both modes against the float64 oracle, and the byte cache.

Two computations of one value may differ by a float32 rounding, and where that value lies between
two codes the rounded results differ by a whole step, which later tokens then see. So equality is
asked of the tokens before any such flip, of which there must be enough.
"""

import pytest
import torch
from reference import Reference
from rounding import roundings

import dsv4
from dsv4.model.moe import PackedExperts
from dsv4.quant import fp4, fp8
from dsv4.quant.entries import entry_bytes, key_bytes

THREE = {"num_hidden_layers": 3, "compress_ratios": [0, 4, 16, 0]}
SHAPES = {
    "three layers": THREE,
    "remainders": THREE
    | {"head_dim": 96, "index_head_dim": 48, "hidden_size": 160, "q_lora_rank": 72},
    "wide": THREE | {"hidden_size": 288, "q_lora_rank": 200, "moe_intermediate_size": 160},
    "base, F32 scales": THREE
    | {"expert_dtype": "fp8", "quantization_config": {"quant_method": "fp8"}},
}
SAME = 1e-5  # relative


def error(ours, theirs):
    """Relative error of each position's logits: [b, n]."""
    return (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)


@pytest.fixture(scope="module")
def folder(make_checkpoint):
    return make_checkpoint()


@pytest.fixture(scope="module", params=["fast", "exact"])
def model(request, folder):
    return dsv4.load(folder, mode=request.param)


@pytest.fixture(scope="module")
def ids(make_ids):
    return make_ids(2, 150).cpu()


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_is_the_oracles(shape, mode, make_checkpoint, make_ids):
    folder, ids = make_checkpoint(**SHAPES[shape]), make_ids(4, 40).cpu()
    dequantised, packed = dsv4.load(folder, torch.float32), dsv4.load(folder, mode=mode)
    oracle = Reference(dequantised, roundings(packed.config)[mode])
    expected = torch.stack([oracle.logits(row.tolist()) for row in ids])
    with torch.no_grad():
        equal = error(packed(ids).double(), expected) < SAME
        unrounded = error(dequantised(ids).double(), expected)
    assert equal.sum() >= 16 and unrounded.min() > 100 * SAME, equal.sum(1)
    if shape == "three layers":  # past closed blocks of both ratios and the indexer's choice
        assert equal[:, 20:].any()


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_draft_rounds_alike(mode, make_checkpoint, make_ids):
    folder, ids = make_checkpoint(num_hidden_layers=1, compress_ratios=[0, 0]), make_ids(4, 12)
    ids = ids.cpu()
    dequantised, packed = dsv4.load(folder, torch.float32), dsv4.load(folder, mode=mode)
    oracle = Reference(dequantised, roundings(packed.config)[mode])
    expected = torch.stack([oracle.draft_logits(row.tolist()) for row in ids])
    with torch.no_grad():
        drafted = packed.draft_streams(packed.streams(ids)[:, :-1], ids[:, 1:])
        found = packed.head(packed.draft_hidden(drafted)).double()
    assert (error(found, expected) < SAME).sum() >= 12


def test_modes_dtypes_and_the_distance_to_the_dequantised_model(folder, model, ids):
    streams = {"fast": torch.float32, "exact": torch.bfloat16}[model.mode]
    assert model.dtype is streams and dsv4.load(folder, torch.float32).mode == "float"
    with torch.no_grad():
        logits, whole = model(ids), dsv4.load(folder, torch.float32)(ids)
        assert model.streams(ids).dtype is streams and logits.dtype is torch.float32
    assert error(logits, whole).median() < {"fast": 0.2, "exact": 0.4}[model.mode]


def test_pieces_single_tokens_and_ragged_batches_agree(model, ids):
    def alike(ours, theirs):
        return error(ours, theirs).median() < 0.02  # flips; unrelated logits differ by 1

    with torch.no_grad():
        whole = model(ids)
        cache = model.new_cache(2)
        parts = [model(ids[:, :70], cache), model(ids[:, 70:130], cache)]
        parts += [model(ids[:, t : t + 1], cache) for t in range(130, 150)]
        assert alike(torch.cat(parts, 1), whole)
        cache = model.new_cache(2)
        first = model(ids[:, :100], cache, lengths=[37, 100])
        second = model(torch.stack((ids[0, 37:87], ids[1, 100:150])), cache, lengths=[50, 41])
        assert cache.lengths == [87, 141]
        assert alike(first[0, :37], whole[0, :37]) and alike(first[1], whole[1, :100])
        assert alike(second[0], whole[0, 37:87]) and alike(second[1, :41], whole[1, 100:141])


def test_stepping_back_and_repeating_the_same_pieces_is_bit_exact(model, ids):
    with torch.no_grad():
        cache = model.new_cache(2)
        model(ids[:, :130], cache)
        expected = [model(ids[:, t : t + 1], cache) for t in range(130, 142)]
        cache.truncate(130)
        again = [model(ids[:, t : t + 1], cache) for t in range(130, 142)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, expected, strict=True))


def test_the_future_is_not_seen(model, ids):
    changed = ids.clone()
    changed[:, 100:] = (changed[:, 100:] + 1) % 97
    with torch.no_grad():
        assert torch.equal(model(changed)[:, :100], model(ids)[:, :100])


def test_the_cache_is_bytes(model, ids):
    cache, config = model.new_cache(2), model.config
    empty = cache.nbytes()
    entry = entry_bytes(config.head_dim, config.qk_rope_head_dim)
    key = key_bytes(config.index_head_dim)
    with torch.no_grad():
        model(ids, cache)
    state = cache.layers[1]
    for data, width in (
        (state.window.data, entry),
        (state.compressor.entries.data, entry),
        (state.indexer.entries.data, key),
    ):
        assert data.dtype is torch.uint8 and data.shape[-1] == width
    assert state.compressor.tail.data.dtype is torch.float32
    csa, hca = 256 // 4, 256 // 16  # 150 tokens in whole pages of 128
    assert cache.nbytes() - empty == 2 * (2 * csa * (entry + key) + 2 * hca * entry)
    rings = 5 * 2 * config.sliding_window * entry
    halves = 2 * (2 * (config.head_dim + config.index_head_dim) * (16 + 8) * 2)
    tails = 4 * (halves + 2 * 2 * config.head_dim * (16 + 16))
    assert empty == 2 * (rings + tails)


@pytest.mark.parametrize("mode", [None, "fast", "exact"])
def test_generation(mode, folder, ids):
    model = dsv4.load(folder, None if mode else torch.float32, mode=mode)
    prompts = [ids[0, :50].tolist(), ids[1, :9].tolist()]
    first, again = (dsv4.generate(model, prompts, seed=3, max_tokens=12) for _ in range(2))
    assert first == again and all(one.ids for one in first)
    with torch.no_grad():
        expected = int(model(ids[:1, :50])[0, -1].argmax())
    found = dsv4.generate(model, prompts[0], temperature=0, max_tokens=1).ids
    assert found == [expected] or expected == model.config.eos_token_id


def test_only_chosen_experts_are_dequantised(folder, model, monkeypatch):
    experts = model.layers[0].ffn.experts
    assert isinstance(experts, PackedExperts)
    seen = []
    expand = fp4.expand
    monkeypatch.setattr(fp4, "expand", lambda w, s: seen.append(w.data_ptr()) or expand(w, s))
    x, indices = torch.randn(2, 64).to(model.dtype), torch.tensor([[1, 3, 5], [3, 5, 1]])
    out = experts(x, indices, torch.full((2, 3), 0.5))
    assert out.dtype is torch.float32
    assert seen == [
        getattr(experts, m)[e].data_ptr() for e in (1, 3, 5) for m in ("w1", "w3", "w2")
    ]


def test_a_packed_linear_multiplies_what_the_file_says(folder, model):
    linear = model.layers[0].attn.wq_b
    assert linear.weight.dtype is torch.float8_e4m3fn
    assert torch.equal(linear.matrix(), fp8.dequantize(linear.weight, linear.scale))
    identity = linear(torch.eye(32).to(model.dtype))  # powers of two pass every rounding
    assert torch.equal(identity.float(), linear.matrix().T.to(model.dtype).float())


def test_a_packed_model_is_neither_cast_nor_initialised(model):
    for cast in (model.float, model.half, lambda: model.to(torch.float64)):
        with pytest.raises(ValueError, match="load it with dtype=torch"):
            cast()
    with pytest.raises(ValueError, match="reads its weights from files"):
        model.initialize(0)
