"""What a model is handed is looked at before anything is read or written: one line of words."""

from array import array

import pytest
import torch

import dsv4
from dsv4.model.cache import Cache, LayerState, SequenceState, Stores
from dsv4.model.handed import imported
from dsv4.ops import native

module = native.module()
needs_native = pytest.mark.skipif(module is None, reason="the native module is not built")

OTHERS = {
    "head_dim": {"head_dim": 64},
    "index_head_dim": {"index_head_dim": 32},
    "window": {"sliding_window": 8},
    "layers": {"num_hidden_layers": 4, "compress_ratios": [0, 4, 16, 4, 0]},
    "ratios": {"compress_ratios": [0, 4, 8, 4, 8, 0]},
    "rotary": {"qk_rope_head_dim": 8},
}


@pytest.fixture(scope="module")
def folder(make_checkpoint):
    return make_checkpoint()


@pytest.fixture(scope="module", params=["float", "fast", "exact"])
def model(request, folder):
    if request.param == "float":
        return dsv4.load(folder, torch.float32)
    return dsv4.load(folder, mode=request.param)


@pytest.fixture(scope="module")
def ids(make_ids):
    return make_ids(2, 20).cpu()


@pytest.mark.parametrize("other", OTHERS)
def test_the_cache_of_another_model_is_refused(other, model, ids, make_model):
    cache = make_model(**OTHERS[other]).new_cache(2)
    with torch.no_grad(), pytest.raises(ValueError, match="belongs to another model: its"):
        model(ids, cache)
    assert cache.lengths == [0, 0]


def test_a_cache_of_another_precision_is_refused(model, ids, folder):
    for mode in {"float", "fast", "exact"} - {model.mode}:
        dtype, mode = (torch.float32, None) if mode == "float" else (None, mode)
        cache = dsv4.load(folder, dtype, mode=mode).new_cache(2)
        with torch.no_grad(), pytest.raises(ValueError, match=r"its entries are .*Rows"):
            model(ids, cache)


def test_caches_of_drafts_other_batches_and_devices_are_refused(model, ids):
    streams = model.streams(ids).detach()
    away = Stores(model.config, 2, 2, precision=model.precision, device="meta")
    for refused, match in (
        (lambda: model(ids, model.new_draft_cache(2)), "its ratios are .*new_draft_cache"),
        (lambda: model.draft_streams(streams, ids, model.new_cache(2)), "its ratios are"),
        (lambda: model(ids, model.new_cache(3)), "holds 3 sequences, ids has 2"),
        (lambda: model(ids, Cache(away, [SequenceState(0), SequenceState(1)])), "cache is on meta"),
    ):
        with torch.no_grad(), pytest.raises(ValueError, match=match):
            refused()
    with torch.no_grad():  # of the same model, loaded twice
        assert model(ids, model.new_cache(2)).isfinite().all()


def wrong_streams(right):
    yield right.double()
    yield right.half()
    yield right.to(torch.bfloat16 if right.dtype is torch.float32 else torch.float32)
    yield right[:, :, :3]
    yield right[..., :32]
    yield right.flatten(2)
    yield right.to("meta")


def test_streams_of_another_kind_are_refused(model, ids):
    with torch.no_grad():
        right = model.streams(ids)
        for wrong in wrong_streams(right):
            for refused in (
                lambda x: model.logits(x),
                lambda x: model.draft_streams(x, ids),
                lambda x: model.draft_hidden(x),
            ):
                with pytest.raises(ValueError, match=r"streams are torch.*: must be torch"):
                    refused(wrong)
        with pytest.raises(
            ValueError, match=r"streams are of \[2, 20\] tokens, next_ids \[2, 19\]"
        ):
            model.draft_streams(right, ids[:, 1:])
        turned = right.transpose(0, 1).contiguous().transpose(0, 1)  # as it lies matters not
        assert torch.equal(model.logits(turned), model.logits(right))
        for b in (1, 2):
            part = model.logits(right[:b, ::2])
            assert torch.equal(part, model.logits(right[:b, ::2].contiguous()))


# ---- the native module itself -------------------------------------------------------------------


@pytest.fixture
def twin(folder):
    return dsv4.load(folder).layers[1].twin


def tables(*pages):
    return [array("i", each) for each in pages]


def handed(twin, batch=2, n=20):
    """What a call takes, all right: a page of each sequence holds 128 tokens."""
    span = module.Span(
        n, [0] * batch, [n] * batch, list(range(batch)), tables([0], [1]), [0] * batch
    )
    state = LayerState(twin.config, 1, batch, 2, twin.precision, "cpu")
    x = torch.randn(batch, n, twin.config.hc_mult, twin.config.hidden_size)
    return state, span, x, torch.randint(97, (batch, n))


def stores(state):
    return [
        state.window.data,
        state.compressor.entries.data,
        state.compressor.tail.data,
        state.indexer.entries.data,
        state.indexer.tail.data,
    ]


@needs_native
def test_native_stores_are_looked_at(twin):
    right = stores(handed(twin)[0])
    module.LayerState(twin.native, *right)
    for place, store in enumerate(right):
        for wrong in (
            store[:1].clone(),
            store[..., 1:].contiguous(),
            store[0],
            store[..., None],
            None,
        ):
            with pytest.raises((ValueError, TypeError)):
                module.LayerState(twin.native, *right[:place], wrong, *right[place + 1 :])
        for wrong in (store.double(), store.to("meta"), store.transpose(1, 2)):
            with pytest.raises((ValueError, TypeError, BufferError, RuntimeError)):
                module.LayerState(twin.native, *right[:place], wrong, *right[place + 1 :])
    for place in (0, 2, 4):  # rings too short
        short = right[place][:, :3].contiguous()
        with pytest.raises(ValueError, match="keeps 3 rows, must keep"):
            module.LayerState(twin.native, *right[:place], short, *right[place + 1 :])


@needs_native
def test_native_calls_are_looked_at(twin, folder):
    state, span, x, ids = handed(twin)
    native_state = module.LayerState(twin.native, *stores(state))
    other = dsv4.load(folder).layers[1].twin.native
    with pytest.raises(ValueError, match="made for another layer"):
        other.attend(native_state, span, imported(module, x))
    for wrong, match in (
        (
            module.Span(20, [0, 0], [20, 20], [0, 2], tables([0], [1]), [0, 0]),
            "for 2 slots, .* needs 3",
        ),
        (
            module.Span(20, [0, 0], [20, 20], [0, 1], tables([0], [2]), [0, 0]),
            "for 2 pages, .* needs 3",
        ),
        (
            module.Span(20, [120, 0], [20, 20], [0, 1], tables([0], [1]), [0, 0]),
            "for 32 entries of a seq",
        ),
        (
            module.Span(20, [0, 0], [20, 20], [0, 1], tables([0], []), [0, 0]),
            "for 0 entries of a seq",
        ),
        (
            module.Span(19, [0, 0], [19, 19], [0, 1], tables([0], [1]), [0, 0]),
            r"the streams are float32 \[2, 20, 4, 64\], must be",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            twin.native.attend(native_state, wrong, imported(module, x))
    for wrong in (*wrong_streams(x), x[0], x.transpose(0, 1), x[:1], x[:, ::2]):
        for call in (
            lambda w: twin.native.attend(native_state, span, w),
            lambda w: twin.native.mix(span, imported(module, ids), w),
        ):
            with pytest.raises((ValueError, BufferError), match=r"the streams are|meta"):
                call(imported(module, wrong))
    for wrong in (ids.int(), ids[:1], ids[:, 1:], ids[..., None], ids.double(), ids.t()):
        with pytest.raises(ValueError, match="the ids are"):
            twin.native.mix(span, imported(module, wrong), imported(module, x))
    with pytest.raises(ValueError, match="token id 97 is outside the table of 97"):
        twin.native.mix(span, imported(module, ids * 0 + 97), imported(module, x))


WRONG_SPANS = {
    "lengths": [[0], [1, 1], [0], tables([0])],
    "start": [[-1], [1], [0], tables([0])],
    "length": [[0], [-1], [0], tables([0])],
    "long": [[0], [21], [0], tables([0])],
    "slot": [[0], [1], [-1], tables([0])],
    "slots": [[0], [1], [], tables([0])],
    "tables": [[0], [1], [0], []],
    "page": [[0], [1], [0], tables([-1])],
    "known": [[0], [1], [0], tables([0]), [-1]],
    "knowns": [[0], [1], [0], tables([0]), []],
}


@needs_native
@pytest.mark.parametrize("wrong", WRONG_SPANS)
def test_native_spans_are_looked_at(wrong):
    with pytest.raises(ValueError, match="a start, a length, a slot, a table and known"):
        module.Span(20, *WRONG_SPANS[wrong][:4], *WRONG_SPANS[wrong][4:] or [[0]])
    for table in (array("q", [0]), array("f", [0.0]), b"0000"):
        with pytest.raises(ValueError, match="array of C ints"):
            module.Span(20, [0], [1], [0], [table], [0])
    with pytest.raises((TypeError, BufferError)):
        module.Span(20, [0], [1], [0], [7], [0])


@needs_native
def test_native_layers_are_looked_at_when_they_are_made(folder):
    model = dsv4.load(folder)
    block, made = model.layers[1], type(model.layers[1].twin)
    for holder, name in (
        (block.attn.q_norm, "weight"),
        (block.attn.kv_norm, "weight"),
        (block, "hc_attn_base"),
        (block.attn.compressor, "ape"),
        (block.attn, "attn_sink"),
        (block.ffn.gate, "weight"),
        (block.attn.indexer.compressor.wkv, "weight"),
    ):
        right = getattr(holder, name)
        setattr(holder, name, torch.nn.Parameter(right[:-1], requires_grad=False))
        with pytest.raises(ValueError, match=r"must (be|have)"):
            made(module, block, 1)
        setattr(holder, name, right)
    made(module, block, 1)
    with pytest.raises(ValueError, match="no field wq_c"):
        block.twin.native.vector("wq_c", torch.ones(3))


@needs_native
def test_native_operators_look_at_their_arrays(twin):
    w = module.Matrix("f32", 4, 64, torch.ones(4, 64).view(torch.uint8))
    x, y = torch.ones(3, 64), torch.zeros(3, 4)
    for wrong in ((x[:, :32].contiguous(), y), (x, y[:2]), (x[0], y), (x, y.t().contiguous())):
        with pytest.raises(ValueError, match="has shape"):
            w.multiply(*wrong, False)
    for shape in ((0, 64), (-4, -64)):
        with pytest.raises(ValueError, match="no matrix f32"):
            module.Matrix("f32", *shape, torch.ones(4, 64).view(torch.uint8))
    with pytest.raises(ValueError, match="no matrix f64"):
        module.Matrix("f64", 4, 64, torch.ones(4, 64).view(torch.uint8))
    q, keys, sink, o = torch.ones(4, 32), torch.ones(9, 32), torch.ones(4), torch.ones(4, 32)
    for wrong in ((q, keys[:, 1:].contiguous(), sink), (q, keys, sink[1:])):
        with pytest.raises(ValueError, match="has shape"):
            module.attend_keys(*wrong, False, o)
    for threads in (0, -1, 40_000):
        with pytest.raises(ValueError, match="threads, must be 1 to 1024"):
            module.set_threads(threads)
