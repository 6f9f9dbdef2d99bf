"""A native block draft: near its plain twin, and itself in any pieces, batch and threads."""

import copy

import pytest
import torch
from drafts import DSPARK

import dsv4
from dsv4.model.cache import Cache, SequenceState
from dsv4.model.draft import block_streams, propose, remember
from dsv4.model.handed import imported, matrix
from dsv4.model.span import BlockSpan
from dsv4.model.twin import StageTwin
from dsv4.ops import native

module = native.module()
pytestmark = pytest.mark.skipif(module is None, reason="the native module is not built")

WIDE = {"head_dim": 64, "hidden_size": 128, "moe_intermediate_size": 64, "dspark_markov_rank": 64}
SHAPES = {"small": {}, "one stage": {"compress_ratios": [0, 4, 16, 0]}, "wide": WIDE}
LENGTHS = [30, 8, 1, 0, 19]  # above, at and below the window, and a draft of nothing


@pytest.fixture(scope="module", params=SHAPES)
def folder(request, make_checkpoint):
    return make_checkpoint(**(DSPARK | SHAPES[request.param]))


@pytest.fixture(scope="module", params=["fast", "exact"])
def model(request, folder):
    found = dsv4.load(folder, mode=request.param)
    assert found.twin and all(isinstance(stage.twin, StageTwin) for stage in found.mtp)
    return found


@pytest.fixture
def plain(model, folder, load_plain):
    """The same model on plain operators."""
    found = load_plain(folder, mode=model.mode)
    assert found.twin is None and all(stage.twin is None for stage in found.mtp)
    return found


@pytest.fixture(scope="module")
def hidden(model):
    """main_hidden of sequences of 30 tokens."""
    width = 2 * model.config.hidden_size
    generator = torch.Generator().manual_seed(5)
    return torch.randn(len(LENGTHS), 30, width, generator=generator).to(model.dtype)


@pytest.fixture(scope="module")
def anchors():
    return torch.arange(3, 3 + len(LENGTHS))


def filled(model, hidden, lengths=LENGTHS, pieces=30):
    """A draft's cache of the first `lengths[b]` tokens of each sequence, `pieces` at a time."""
    cache = model.new_draft_cache(len(lengths))
    for at in range(0, 30, pieces):
        part = hidden[:, at : at + pieces]
        remember(model, part, cache, [min(max(n - at, 0), part.shape[1]) for n in lengths])
    return cache


@torch.inference_mode()
def draft(model, hidden, anchors, lengths=LENGTHS, pieces=30):
    return propose(model, anchors, filled(model, hidden, lengths, pieces))


def equal(one, two):
    return all(
        torch.equal(getattr(one, name), getattr(two, name))
        for name in ("ids", "logits", "confidence")
    )


def pick(proposal, rows):
    return type(proposal)(proposal.ids[rows], proposal.logits[rows], proposal.confidence[rows])


# ---- beside the plain operators ------------------------------------------------------------------


def test_contexts_hold_what_the_plain_operators_store(model, plain, hidden):
    mine, theirs = filled(model, hidden), filled(plain, hidden)
    assert mine.lengths == theirs.lengths == LENGTHS
    for one, two in zip(mine.layers, theirs.layers, strict=True):
        assert (one.window.data == two.window.data).float().mean() > 0.98
        assert (one.window.data[3] == 0).all()  # a sequence without a token


@pytest.mark.parametrize("n", [4, 520])
def test_stages_are_near_their_plain_twins(n, model, plain, hidden):
    """Also a block that is longer than a pass of rows."""
    cache = filled(model, hidden)
    span = BlockSpan(cache.lengths, n, model.config.sliding_window, "cpu", cache.sequences)
    shape = (len(LENGTHS), n, model.config.hc_mult, model.config.hidden_size)
    x = torch.randn(shape).to(model.dtype)
    for mine, theirs, state in zip(model.mtp, plain.mtp, cache.layers, strict=True):
        expected = theirs.attend(x.clone(), span, state).float()
        found = mine.twin.attend(x.clone(), span, state).float()
        change = (expected - x.float()).flatten(2).norm(dim=-1)
        error = (found - expected).flatten(2).norm(dim=-1) / change  # [b, n]
        assert error.median() < 2e-3 and error.mean() < 2e-2, error.mean()


def test_heads_are_near_their_plain_twins(model, plain, hidden, anchors):
    cache = filled(model, hidden)
    span = BlockSpan(cache.lengths, 4, model.config.sliding_window, "cpu", cache.sequences)
    with torch.no_grad():
        streams = block_streams(model, anchors, span, cache.layers)
        found, expected = (one.draft_logits(streams) for one in (model, plain))
        for one, two in zip(found, expected, strict=True):
            assert one.dtype is two.dtype is torch.float32
            assert (one - two).norm() / two.norm() < 5e-3
        for k in range(4):
            one, two = (m.mtp[-1].parts.correct(anchors, k, *expected) for m in (model, plain))
            assert torch.allclose(one[0], two[0], atol=1e-5)
            assert torch.allclose(one[1], two[1], atol=1e-5)


def test_drafts_are_near_their_plain_twins(model, plain, hidden, anchors):
    found, expected = (draft(one, hidden, anchors).logits for one in (model, plain))
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.median() < {"fast": 1e-2, "exact": 5e-2}[model.mode]  # roundings fall elsewhere


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_an_mtp_draft_has_a_native_head_too(mode, make_checkpoint, make_ids):
    model, ids = dsv4.load(make_checkpoint(), mode=mode), make_ids(2, 20).cpu()
    with torch.no_grad():
        streams = model.draft_streams(model.streams(ids)[:, :-1], ids[:, 1:])
        hidden, logits = model.draft_logits(streams)
        expected = model.mtp[0].fold(streams).float()
        assert torch.allclose(hidden, expected, rtol=1e-2 if mode == "exact" else 1e-4, atol=1e-4)
        rows = model.head(model.draft_hidden(streams))
        assert (logits - rows).norm() / rows.norm() < 5e-3


# ---- bit for bit ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(model, hidden, anchors):
    return draft(model, hidden, anchors)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_pieces_change_no_bit(size, model, hidden, anchors, whole):
    assert equal(draft(model, hidden, anchors, pieces=size), whole)


def test_neighbours_slots_and_threads_change_no_bit(model, hidden, anchors, whole):
    for b in range(len(LENGTHS)):
        alone = draft(model, hidden[b : b + 1], anchors[b : b + 1], LENGTHS[b : b + 1])
        assert equal(alone, pick(whole, slice(b, b + 1)))
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert equal(draft(model, hidden, anchors), whole)
    torch.set_num_threads(before)
    cache = filled(model, hidden)
    some = Cache(cache.stores, [cache.sequences[b] for b in (4, 0)])
    assert equal(propose(model, anchors[[4, 0]], some), pick(whole, [4, 0]))


def test_a_batch_of_several_passes(model, hidden, anchors, whole):
    """150 sequences of four rows: 600 rows, 512 in a pass."""
    rows = [b % len(LENGTHS) for b in range(150)]
    many = draft(model, hidden[rows], anchors[rows], [LENGTHS[b] for b in rows])
    assert equal(many, pick(whole, rows))


@pytest.mark.parametrize("kernels", module.kernel_names() if module else [])
def test_every_instruction_set(kernels, model, hidden, anchors, whole):
    """Each equal to itself in pieces, and near the others."""
    best = module.kernels()
    assert module.choose_kernels(kernels)
    try:
        found = draft(model, hidden, anchors)
        assert equal(draft(model, hidden, anchors, pieces=4), found)
    finally:
        module.choose_kernels(best)
    error = (found.logits - whole.logits).norm(dim=-1) / whole.logits.norm(dim=-1)
    assert error.median() < {"fast": 1e-2, "exact": 5e-2}[model.mode]


def test_a_draft_leaves_the_cache_alone(model, hidden, anchors, whole):
    cache = filled(model, hidden)
    before = [state.window.data.clone() for state in cache.layers]
    for _ in range(2):
        assert equal(propose(model, anchors, cache), whole)
    assert cache.lengths == LENGTHS
    for state, data in zip(cache.layers, before, strict=True):
        assert torch.equal(state.window.data, data)


def test_copies_and_what_returns_draft_alike(model, hidden, anchors, whole):
    for other in (copy.deepcopy(model), copy.deepcopy(model)._apply(torch.clone)):
        assert other.mtp[-1].twin is not model.mtp[-1].twin
        assert equal(draft(other, hidden, anchors), whole)
    other.mtp[-1].markov_head.markov_w2.weight.data.zero_()  # it reads its own weights
    other.mtp[-1].norm.weight.data.zero_()
    other._apply(torch.clone)
    assert not draft(other, hidden, anchors).logits.any()
    assert equal(draft(model, hidden, anchors), whole)


# ---- what is handed over -------------------------------------------------------------------------


def test_what_is_not_of_the_model_is_refused(model, hidden, anchors):
    cache = filled(model, hidden)
    before = [state.window.data.clone() for state in cache.layers]
    other = torch.float32 if model.dtype is torch.bfloat16 else torch.bfloat16
    for wrong in (hidden[..., 1:], hidden.to(other), hidden.double(), hidden[0], hidden.flatten(1)):
        with pytest.raises(ValueError, match=r"main_hidden is .*: must be torch"):
            remember(model, wrong, cache)
    for lengths in ([1], [31, 0, 0, 0, 0], [-1, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="numbers between 0 and 30"):
            remember(model, hidden, cache, lengths)
    for wrong in (anchors + 97, anchors - 9):
        with pytest.raises(ValueError, match="outside the vocabulary of 97"):
            propose(model, wrong, cache)
    with pytest.raises(ValueError, match="token id 97 is outside the vocabulary"):
        propose(model, anchors, cache, lambda logits: anchors * 0 + 97)
    assert cache.lengths == LENGTHS
    for state, data in zip(cache.layers, before, strict=True):
        assert torch.equal(state.window.data, data)


def test_native_calls_are_looked_at(model, hidden):
    first, last, kind = model.mtp[0].twin, model.mtp[-1].twin, model.dtype
    state = first._stores(filled(model, hidden).layers[0], None)
    d, v = model.config.hidden_size, 97

    def span(block=False):
        tables = [SequenceState(0).pages] * 2
        return module.Span(4, [0, 0], [4, 4], [0, 1], tables, [0, 0], block)

    def handed(*shape, dtype=kind):
        return imported(module, torch.zeros(shape, dtype=dtype))

    first.native.remember(state, span(), handed(2, 4, d))
    with pytest.raises(ValueError, match="a drafted block is never stored"):
        first.native.remember(state, span(True), handed(2, 4, d))
    layer = model.layers[1].twin
    stores = layer._stores(model.new_cache(2).layers[1], None)
    with pytest.raises(ValueError, match="through a layer of ratio 4, must be 0"):
        layer.native.attend(stores, span(True), handed(2, 4, model.config.hc_mult, d))
    for shape in ((2, 4, d - 1), (2, 3, d), (1, 4, d), (8, d)):
        with pytest.raises(ValueError, match="the rows are"):
            first.native.remember(state, span(), handed(*shape))
        with pytest.raises(ValueError, match="the rows are"):
            first.context.rows(span(), handed(2, 4, 2 * d), handed(*shape))
    with pytest.raises(ValueError, match="the means are float64"):
        first.context.rows(span(), handed(2, 4, 2 * d, dtype=torch.float64), handed(2, 4, d))

    right = [(2,), (2, 4, d), (2, 4, v), (2, v), (2,)]
    kinds = [torch.int64] + [torch.float32] * 4

    def correct(shapes=right, kinds=kinds, k=0):
        ids, *rest = (
            handed(*shape, dtype=dtype) for shape, dtype in zip(shapes, kinds, strict=True)
        )
        last.markov.correct(ids, k, *rest)

    correct()
    for place, shape in enumerate(right):
        for wrong in ((3, *shape[1:]), (*shape, 1), (*shape[:-1], shape[-1] + 1)):
            with pytest.raises(ValueError, match="must be contiguous"):
                correct([*right[:place], wrong, *right[place + 1 :]])
        with pytest.raises(ValueError, match="must be contiguous"):
            correct(kinds=[*kinds[:place], torch.float64, *kinds[place + 1 :]])
    for k in (-1, 4):
        with pytest.raises(ValueError, match="of a block"):
            correct(k=k)


def test_native_heads_are_looked_at_when_they_are_made(model):
    made = [matrix(module, torch.ones(shape)) for shape in ((97, 6), (97, 6), (1, 38))]
    module.Markov(*made)
    codes = torch.ones(97, 6).to(torch.float8_e4m3fn)
    packed = matrix(module, codes, torch.ones(1, 1))
    for place, wrong, match in (
        (0, matrix(module, torch.ones(97, 5)), "markov_w2 is .* must be"),
        (1, matrix(module, torch.ones(96, 6)), "markov_w2 is .* must be"),
        (2, matrix(module, torch.ones(2, 38)), "confidence_head is .* must be"),
        (2, matrix(module, torch.ones(1, 6)), "confidence_head is .* must be"),
        (0, packed, "markov_w1 is packed"),
        (1, packed, "markov_w2 is packed"),
    ):
        with pytest.raises(ValueError, match=match):
            module.Markov(*made[:place], wrong, *made[place + 1 :])
    with pytest.raises(ValueError, match="main_norm has shape"):
        module.Context(False, 1e-6, matrix(module, torch.ones(8, 16)), torch.ones(7))
