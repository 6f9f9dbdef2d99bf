"""The block draft: what it reads, its cache, and what each row of a block can see."""

import pytest
import torch
from drafts import DSPARK
from reference import DSparkReference, Rounding
from rounding import roundings

import dsv4
from dsv4.model.draft import propose, remember


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(**DSPARK)


@pytest.fixture(scope="module")
def hidden(model, device):
    """main_hidden of two sequences of 30 tokens."""
    return torch.randn(2, 30, 2 * 64, generator=torch.Generator().manual_seed(5)).to(device)


def drafts(model, hidden, anchors, pieces=None):
    """The draft after `hidden` was remembered, whole or in pieces."""
    cache = model.new_draft_cache(len(hidden))
    for piece in [hidden] if pieces is None else hidden.split(pieces, dim=1):
        remember(model, piece, cache)
    return propose(model, torch.tensor(anchors, device=hidden.device), cache)


def close(one, two):
    return torch.allclose(one.logits, two.logits, atol=1e-4) and torch.equal(one.ids, two.ids)


# ---- what it reads ---------------------------------------------------------------------------


def test_main_hidden_is_the_mean_of_the_streams_after_the_target_layers(model, make_ids):
    ids, seen = make_ids(2, 9), {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, n=n: seen.update({n: out.clone()}))
        for n, layer in enumerate(model.layers)
    ]
    with torch.no_grad():
        streams, targets = model.streams_and_targets(ids)
    for hook in hooks:
        hook.remove()
    expected = torch.cat([seen[0].mean(2), seen[2].mean(2)], dim=-1)
    assert torch.allclose(targets, expected, atol=1e-6) and torch.equal(streams, seen[2])


def test_a_model_without_a_block_draft_has_no_targets(make_model, make_ids):
    april = make_model()
    assert april.streams_and_targets(make_ids(1, 3))[1] is None and not april.targets
    with pytest.raises(ValueError, match="no DSpark draft"):
        propose(april, torch.tensor([1]), april.new_draft_cache(1))


def test_arguments_are_checked(model, hidden):
    cache = model.new_draft_cache(2)
    with pytest.raises(ValueError, match="holds 2 sequences, main_hidden has 1"):
        remember(model, hidden[:1], cache)
    with pytest.raises(ValueError, match="one for each of 2"):
        propose(model, torch.tensor([1]), cache)
    with pytest.raises(ValueError, match="no MTP block"):
        model.draft_hidden(torch.zeros(1))


@pytest.mark.parametrize("n", [1, 5, 8, 19])
def test_the_float64_oracle(n, model, make_ids):
    """Whole, from the tokens: below, at and above the window of 8, and after one token alone."""
    ids = make_ids(1, n)
    reference = DSparkReference(model, Rounding)
    main_hidden = reference.main_hidden(ids[0].tolist())
    tokens, logits, confidence = reference.draft(main_hidden, anchor=7)
    with torch.no_grad():
        found = drafts(model, model.streams_and_targets(ids)[1], [7])
    assert found.ids[0].tolist() == tokens.tolist()
    assert torch.allclose(found.logits[0].double().cpu(), logits.cpu(), atol=2e-4)
    assert torch.allclose(found.confidence[0].double().cpu(), confidence.cpu(), atol=2e-4)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_packed_models_round_as_the_oracle(mode, make_checkpoint):
    """FP8 ring and block entries, rounded inputs of linears. Where a value lies between two codes
    a draft may differ (tests/model/test_packed.py): most must not, and none equals the float path.
    """
    folder = make_checkpoint(**DSPARK)
    dequantised, packed = dsv4.load(folder, torch.float32), dsv4.load(folder, mode=mode)
    reference = DSparkReference(dequantised, roundings(packed.config)[mode])
    equal = []
    for seed in range(6):
        hidden = torch.randn(1, 6, 128, generator=torch.Generator().manual_seed(seed))
        hidden = hidden.to(packed.dtype)
        _, logits, _ = reference.draft(hidden[0].double(), anchor=11 + seed)
        with torch.no_grad():
            found = drafts(packed, hidden, [11 + seed]).logits[0].double()
            floats = drafts(dequantised, hidden.float(), [11 + seed]).logits[0].double()
        error = (found - logits).norm(dim=-1) / logits.norm(dim=-1)
        assert ((floats - logits).norm(dim=-1) / logits.norm(dim=-1)).min() > 1e-3
        equal += (error < 1e-5).tolist()
    assert sum(equal) >= len(equal) // 3, equal


# ---- the cache -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 17, 30])
def test_whole_prompt_equals_row_by_row(n, model, hidden):
    part = hidden[:, :n]
    assert close(drafts(model, part, [3, 4]), drafts(model, part, [3, 4], pieces=1))
    assert close(drafts(model, part, [3, 4]), drafts(model, part, [3, 4], pieces=5))


@pytest.mark.parametrize("standing", range(5))
def test_committed_rows_then_a_draft_equals_a_fresh_prompt(standing, model, hidden):
    """Of a verified block of five rows `standing` + 1 are kept, in a batch of other numbers."""
    cache = model.new_draft_cache(2)
    remember(model, hidden[:, :12], cache, [12, 10])
    kept = [standing + 1, 5 - standing]
    rows = torch.stack((hidden[0, 12:17], hidden[1, 10:15]))
    remember(model, rows, cache, kept)
    assert cache.lengths == [13 + standing, 15 - standing]
    found = propose(model, torch.tensor([3, 4], device=hidden.device), cache)
    for b, length in enumerate(cache.lengths):
        alone = drafts(model, hidden[b : b + 1, :length], [3 + b])
        assert torch.allclose(found.logits[b], alone.logits[0], atol=1e-4)


def test_a_draft_leaves_the_cache_alone(model, hidden):
    cache = model.new_draft_cache(2)
    remember(model, hidden[:, :11], cache)
    before = [state.window.data.clone() for state in cache.layers]
    anchors = torch.tensor([1, 2], device=hidden.device)
    first, again = propose(model, anchors, cache), propose(model, anchors, cache)
    assert torch.equal(first.logits, again.logits) and cache.lengths == [11, 11]
    for state, data in zip(cache.layers, before, strict=True):
        assert torch.equal(state.window.data, data)


def test_stepping_back_as_far_as_the_main_cache(model, hidden):
    cache = model.new_draft_cache(2)
    remember(model, hidden, cache)
    cache.truncate([22, 27])
    found = propose(model, torch.tensor([3, 4], device=hidden.device), cache)
    for b, length in enumerate([22, 27]):
        alone = drafts(model, hidden[b : b + 1, :length], [3 + b])
        assert torch.allclose(found.logits[b], alone.logits[0], atol=1e-4)
    with pytest.raises(ValueError, match="cannot step to length 21"):
        cache.truncate(21)


def test_bytes_of_the_cache(model):
    cache = model.new_draft_cache(3)
    assert len(cache.layers) == 2 == model.config.draft_stages
    assert cache.nbytes() == 3 * 2 * (2 * 8) * 32 * 4  # stages, window and as much to step back


# ---- what a row sees -------------------------------------------------------------------------


def test_the_block_is_not_causal(model, hidden, make_model):
    """Row 0 stands before the noise rows and sees them."""
    other = make_model(**(DSPARK | {"dspark_noise_token_id": 91}))
    one, two = drafts(model, hidden, [3, 4]), drafts(other, hidden, [3, 4])
    assert (one.logits[:, 0] - two.logits[:, 0]).abs().max() > 1e-3


def test_the_window_ends_before_the_block_for_every_row(model, hidden):
    """Positions p − 8 … p − 1 are seen by every row, older ones by none."""
    plain = drafts(model, hidden, [3, 4])
    older, oldest = hidden.clone(), hidden.clone()
    older[:, : 30 - 8] += 1
    oldest[:, 30 - 8] += 1
    assert torch.equal(drafts(model, older, [3, 4]).logits, plain.logits)
    moved = (drafts(model, oldest, [3, 4]).logits - plain.logits).abs().amax(-1)
    assert (moved > 1e-4).all()  # the last row too


def test_confidence_reads_what_comes_before_the_norm(model, hidden, make_model):
    other = make_model(**DSPARK)
    with torch.no_grad():
        other.mtp[-1].norm.weight.mul_(-2)
    one, two = drafts(model, hidden, [3, 4]), drafts(other, hidden, [3, 4])
    assert (one.logits[:, 0] - two.logits[:, 0]).abs().max() > 0.1
    assert torch.equal(one.confidence[:, 0], two.confidence[:, 0])  # its token is the anchor yet


def test_tokens_are_chosen_one_after_another(model, hidden):
    """Logits of row k follow from the token that was chosen at row k − 1, and from no other."""
    forced = iter([5, 6, 7, 8])
    cache = model.new_draft_cache(2)
    remember(model, hidden, cache)
    anchors = torch.tensor([3, 4], device=hidden.device)
    found = propose(
        model, anchors, cache, lambda logits: torch.full((2,), next(forced), device=logits.device)
    )
    assert found.ids.tolist() == [[5, 6, 7, 8]] * 2
    likely, last = propose(model, anchors, cache), model.mtp[-1]
    for k in range(4):
        before = anchors if k == 0 else found.ids[:, k - 1]
        chosen = anchors if k == 0 else likely.ids[:, k - 1]
        added, other = (last.markov_head(last.markov_head.row(ids)) for ids in (before, chosen))
        base = found.logits[:, k] - added
        assert torch.allclose(base, likely.logits[:, k] - other, atol=1e-5)
        assert not k or (added - other).abs().max() > 1e-3
