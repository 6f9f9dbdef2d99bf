"""Native sub-layers: near their plain twins, and equal to themselves however tokens come."""

import copy
import gc
import io
import warnings

import pytest
import torch

import dsv4
from dsv4.model.cache import SequenceState
from dsv4.model.span import Span
from dsv4.ops import native

pytestmark = pytest.mark.skipif(native.module() is None, reason="the native module is not built")

WIDE = {"index_head_dim": 64, "head_dim": 64, "hidden_size": 128, "moe_intermediate_size": 64}
SHAPES = {"small": {}, "byte products": WIDE, "one stream pair": {"hc_mult": 2}}


def is_native(model):
    owners = [*model.layers, *model.mtp, model]
    assert len({owner.twin is None for owner in owners}) == 1
    return model.twin is not None


@pytest.fixture(scope="module", params=SHAPES)
def folder(request, make_checkpoint):
    return make_checkpoint(spread=0.05, **SHAPES[request.param])


@pytest.fixture(scope="module", params=["fast", "exact"])
def model(request, folder):
    found = dsv4.load(folder, mode=request.param)
    assert is_native(found)
    return found


@pytest.fixture
def plain(model, folder, load_plain):
    """The same model on plain operators."""
    found = load_plain(folder, mode=model.mode)
    assert not is_native(found)
    return found


@pytest.fixture(scope="module")
def ids(make_ids):
    return make_ids(3, 200).cpu()


@pytest.fixture(scope="module")
def whole(model, ids):
    with torch.inference_mode():
        return model(ids)


def test_sublayers_are_near_their_plain_twins(model, plain, ids):
    """Alike but for values that fall to the other side of a rounding, or of a choice."""
    span = model._span(ids, None, None, model.form)
    x = model.embed.weight[ids].to(model.dtype).unsqueeze(2)
    x = x.repeat(1, 1, model.config.hc_mult, 1)
    x += 0.1 * torch.randn(x.shape)  # streams that differ
    for mine, theirs in zip(model.layers, plain.layers, strict=True):
        for name, arguments in (("attend", (span, None)), ("mix", (ids, span))):
            expected = getattr(theirs, name)(x.clone(), *arguments).float()
            found = getattr(mine.twin, name)(x.clone(), *arguments).float()
            change = (expected - x.float()).flatten(2).norm(dim=-1)
            error = (found - expected).flatten(2).norm(dim=-1) / change  # [b, n]
            assert error.median() < 2e-3 and error.mean() < 2e-2, (name, error.mean())
        x = expected.to(model.dtype)
    with torch.no_grad():
        assert (model.logits(x) - plain.logits(x)).abs().max() < 1e-3


@pytest.mark.parametrize("size", [1, 3, 64, 130])
def test_pieces_equal_the_whole_bit_for_bit(model, ids, whole, size):
    cache = model.new_cache(3)
    with torch.inference_mode():
        parts = [model(ids[:, at : at + size], cache) for at in range(0, 200, size)]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_neighbours_and_threads_change_no_bit(model, ids, whole):
    with torch.inference_mode():
        for b in range(3):
            assert torch.equal(model(ids[b : b + 1]), whole[b : b + 1])
        before = torch.get_num_threads()
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(model(ids), whole)
        torch.set_num_threads(before)


def test_ragged_batches_equal_each_sequence_alone(model, ids, whole):
    cache = model.new_cache(3)
    with torch.inference_mode():
        first = model(ids[:, :90], cache, [90, 40, 0])
        rest = torch.zeros(3, 110, dtype=torch.int64)
        for b, seen in enumerate((90, 40, 0)):
            rest[b, :50] = ids[b, seen : seen + 50]
        second = model(rest, cache, [50, 50, 50])
        step = model(torch.stack((ids[0, 140:141], ids[1, 0:1], ids[2, 50:51])), cache, [1, 0, 1])
    assert torch.equal(first[0, :90], whole[0, :90]) and torch.equal(first[1, :40], whole[1, :40])
    for b, seen in enumerate((90, 40, 0)):
        assert torch.equal(second[b, :50], whole[b, seen : seen + 50])
    assert torch.equal(step[0, 0], whole[0, 140]) and torch.equal(step[2, 0], whole[2, 50])


def test_a_prefill_beside_decoding_equals_each_alone(model, make_ids):
    """Nine sequences: one feeds 260 tokens, six one token each, one none, one 256 of its own."""
    ids = make_ids(9, 560).cpu()
    lengths = [260, 1, 1, 1, 0, 1, 1, 1, 256]  # more than one pass takes
    before = [300, 5, 130, 64, 3, 127, 0, 90, 0]
    cache = model.new_cache(9)
    with torch.inference_mode():
        whole = [
            model(row[: seen + n].unsqueeze(0))[0, seen:]
            for row, seen, n in zip(ids, before, lengths, strict=True)
        ]
        model(ids[:, :300], cache, before)
        mixed = torch.zeros(9, 260, dtype=torch.int64)
        for b, (seen, n) in enumerate(zip(before, lengths, strict=True)):
            mixed[b, :n] = ids[b, seen : seen + n]
        found = model(mixed, cache, lengths)
    for b, n in enumerate(lengths):
        assert torch.equal(found[b, :n], whole[b])


def test_stepping_back_repeats_every_bit(model, ids, whole):
    cache = model.new_cache(3)
    with torch.inference_mode():
        model(ids[:, :150], cache)
        model((ids[:, 150:160] + 1) % 97, cache)
        cache.truncate(145)
        assert torch.equal(model(ids[:, 145:], cache), whole[:, 145:])


def test_stores_hold_what_the_plain_operators_store(model, plain, ids):
    caches = model.new_cache(3), plain.new_cache(3)
    with torch.inference_mode():
        model(ids, caches[0])
        plain(ids, caches[1])
    mine, theirs = (cache.layers[0].window.data for cache in caches)  # rounded by one layer only
    assert (mine == theirs).float().mean() > 0.98
    assert caches[0].nbytes() == caches[1].nbytes()


def test_a_draft_is_near_its_plain_twin(model, plain, ids):
    with torch.inference_mode():
        found, expected = (
            one.draft_hidden(one.draft_streams(one.streams(ids)[:, :-1], ids[:, 1:])).float()
            for one in (model, plain)
        )
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.median() < 0.05


def test_what_an_mtp_block_reads(model, plain, ids):
    """Alike but for values on the other side of a rounding; in any batch the same to the bit."""
    block, window = model.mtp[0], model.config.sliding_window
    generator = torch.Generator().manual_seed(0)
    shape = (3, 200, model.config.hc_mult, model.config.hidden_size)
    streams = torch.randn(shape, generator=generator).to(model.dtype)
    embedded = model.embed.weight[ids].to(model.dtype)

    def joined(rows, lengths):
        n = max(lengths)
        places = [SequenceState.whole(model.config, b, n) for b in range(len(lengths))]
        span = Span([0] * len(lengths), n, lengths, window, "cpu", places)
        return block.twin.join(streams[rows, :n], embedded[rows, :n], span)

    with torch.inference_mode():
        whole = joined([0, 1, 2], [200, 200, 200])
        expected = plain.mtp[0].join(streams, embedded, None)
        ragged = joined([0, 1, 2], [200, 7, 0])
        assert torch.equal(ragged[0], whole[0]) and torch.equal(ragged[1, :7], whole[1, :7])
        assert torch.equal(joined([2], [1]), whole[2:, :1])
    error = (whole - expected).float().norm(dim=-1) / expected.float().norm(dim=-1)
    assert whole.dtype is expected.dtype and error.median() < 1e-3 and error.mean() < 2e-3


def test_shapes_beyond_the_native_ones_run_plain_and_say_so(make_checkpoint, ids):
    folder = make_checkpoint(index_head_dim=24)
    with pytest.warns(RuntimeWarning, match="index_head_dim = 24 is no multiple of 16"):
        model = dsv4.load(folder)
    assert not is_native(model)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model(ids[:, :20]).isfinite().all()


POISON = {torch.float8_e4m3fn: 0x7F, torch.uint8: 0xFF}


@pytest.mark.parametrize("name", ["shared_experts.w1", "shared_experts.w3", "experts.0.w1"])
def test_a_nan_in_an_expert_shows_in_the_logits(folder, ids, name):
    model = dsv4.load(folder)
    part = model.layers[2].ffn
    if name == "experts.0.w1":
        bad = part.experts.w1_scale[0].view(torch.uint8).view(-1)
    else:
        bad = part.get_submodule(name).weight.view(-1)
    with torch.inference_mode():
        assert model(ids[:1]).isfinite().all()
        bad.view(torch.uint8)[3] = POISON[bad.dtype]  # the file stays as it is
        assert model(ids[:1]).isnan().any()


def test_copies_of_a_cache_go_on_alike(model, ids, whole):
    cache = model.new_cache(3)
    with torch.inference_mode():
        model(ids[:, :90], cache)
        other, stored = copy.deepcopy(cache), io.BytesIO()
        torch.save(cache, stored)
        stored.seek(0)
        third = torch.load(stored, weights_only=False)
        for each in (cache, other, third):
            assert torch.equal(model(ids[:, 90:], each), whole[:, 90:])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_model_has_twins_of_its_own(copied, model, ids, whole):
    other = copied(model)
    assert is_native(other) and other.twin is not model.twin
    with torch.inference_mode():
        assert torch.equal(other(ids), whole)
    if copied is copy.deepcopy:  # it reads its own weights
        other.layers[0].attn.wq_a.weight.view(torch.uint8).zero_()
        other.head.weight.data.zero_()
        with torch.inference_mode():
            assert not other(ids).any() and torch.equal(model(ids), whole)


def test_a_model_that_stays_or_returns_is_native(folder, ids):
    model = dsv4.load(folder)
    with torch.inference_mode():
        whole = model(ids)
        twins = [owner.twin for owner in (*model.layers, model)]
        for stays in (lambda: model.to("cpu"), model.cpu, model.eval, model.train):
            stays()
            assert [owner.twin for owner in (*model.layers, model)] == twins  # nothing has moved
        model._apply(torch.clone)  # as a device and back
        assert is_native(model) and model.twin not in twins
        assert torch.equal(model(ids), whole)
        model.layers[1]._apply(torch.clone)
        assert torch.equal(model(ids), whole)
    copy.deepcopy(model).to("meta")
    assert not is_native(model.to("meta"))


def test_twins_keep_nothing_on_spans_and_states(model, ids):
    cache = model.new_cache(3)
    with torch.inference_mode():
        model(ids, cache)
    fields = {"kind", "window", "compressor", "indexer"}
    assert all(set(vars(state)) == fields for state in cache.layers)
    seen = [layer.twin.seen for layer in model.layers]
    assert all(state in each for state, each in zip(cache.layers, seen, strict=True))
    del cache
    gc.collect()
    assert not any(len(each) for each in seen)


def test_entries_that_plain_operators_stored_are_seen(model, plain, ids):
    cache, theirs = model.new_cache(3), plain.new_cache(3)
    with torch.inference_mode():
        model(ids[:, :20], cache)
        plain(ids[:, :20], theirs)
        for c in (cache, theirs):
            plain(ids[:, 20:70], c)  # more entries than there was room for
            c.truncate(60)
        found, expected = model(ids[:, 60:64], cache), plain(ids[:, 60:64], theirs)
    change = (found - expected).flatten(0, 1).norm(dim=-1)
    assert (change / expected.flatten(0, 1).norm(dim=-1)).median() < 0.03


@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("layer", [0, 3])  # by token id, and learned
def test_a_router_far_down_is_the_plain_one(folder, ids, layer, size):
    model = dsv4.load(folder)
    block = model.layers[layer]
    x = torch.rand(1, 9, model.config.hc_mult, model.config.hidden_size) + 0.5
    weight = block.ffn.gate.weight.data
    weight.copy_(-size * (1 + 0.01 * torch.rand(weight.shape)) / weight.shape[1])
    block.twin = type(block.twin)(native.module(), block, layer)
    span = model._span(ids[:1, :9], None, None, model.form)
    with torch.no_grad():
        found = block.twin.mix(x.clone(), ids[:1, :9], span)
        expected = block.mix(x, ids[:1, :9], span)
    assert found.isfinite().all()
    assert (found - expected).norm() < 2e-3 * (expected - x).norm()
