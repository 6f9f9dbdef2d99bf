"""One forward: whole, in pieces, token by token, ragged, after stepping back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(spread=0.05)


@pytest.fixture(scope="module")
def ids(make_ids):
    return make_ids(2, 700)


@pytest.fixture(scope="module")
def whole(model, ids):
    with torch.no_grad():
        return model(ids)


def pieces(model, ids, cuts):
    cache, out = model.new_cache(ids.shape[0]), []
    with torch.no_grad():
        for first, last in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
            out.append(model(ids[:, first:last], cache))
    assert cache.lengths == [ids.shape[1]] * ids.shape[0]
    return torch.cat(out, 1)


@pytest.mark.parametrize("size", [1, 7, 64, 128, 333])
def test_chunks_of_any_size_agree_with_the_whole(size, model, ids, whole):
    logits = pieces(model, ids, range(size, 700, size))
    assert (logits - whole).abs().max() <= TOLERANCE


@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, 299), max_size=6))
def test_random_cuts_agree_with_the_whole(cuts, model, ids, whole):
    logits = pieces(model, ids[:, :300], sorted(cuts))
    assert (logits - whole[:, :300]).abs().max() <= TOLERANCE


def test_the_future_is_not_seen(model, ids, whole):
    changed = ids.clone()
    changed[:, 300:] = (changed[:, 300:] + 1) % 97
    with torch.no_grad():
        assert torch.equal(model(changed)[:, :300], whole[:, :300])


def test_batch_rows_do_not_see_each_other(model, ids, whole):
    with torch.no_grad():
        alone = model(ids[1:])
    assert (alone - whole[1:]).abs().max() <= TOLERANCE


def test_sequences_of_different_lengths_share_a_batch(model, ids, whole):
    cache = model.new_cache(2)
    with torch.no_grad():
        first = model(ids[:, :300], cache, lengths=[137, 300])
        assert cache.lengths == [137, 300]
        second = model(torch.stack((ids[0, 137:337], ids[1, 300:500])), cache, lengths=[200, 150])
        assert cache.lengths == [337, 450]
        third = model(torch.stack((ids[0, 337:338], ids[1, 450:451])), cache)
        fourth = model(ids[:, :1], cache, lengths=[0, 0])
    assert cache.lengths == [338, 451] and fourth.isfinite().all()
    for ours, theirs in (
        (first[0, :137], whole[0, :137]),
        (first[1], whole[1, :300]),
        (second[0], whole[0, 137:337]),
        (second[1, :150], whole[1, 300:450]),
        (third[:, 0], torch.stack((whole[0, 337], whole[1, 450]))),
    ):
        assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize("start", [96, 100, 103, 111])
def test_padding_beyond_every_sequence_reads_nothing_that_is_not_there(start, model, ids, whole):
    cache = model.new_cache(2)
    with torch.no_grad():
        model(ids[:, :start], cache, lengths=[start, 0])
        later = model(ids[:, :9], cache, lengths=[0, 5])  # no sequence fills the columns
        assert cache.lengths == [start, 5]
        last = model(torch.stack((ids[0, start : start + 1], ids[1, 5:6])), cache)
    for ours, theirs in (
        (later[1, :5], whole[1, :5]),
        (last[0, 0], whole[0, start]),
        (last[1, 0], whole[1, 5]),
    ):
        assert (ours - theirs).abs().max() <= TOLERANCE


def test_every_step_back_within_the_window_is_as_never_having_gone_further(model, ids):
    window, reached = model.config.sliding_window, 139  # across block borders of both ratios
    with torch.no_grad():
        gone = model.new_cache(2)
        model(ids[:, :reached], gone)
        for back in range(window + 1):
            length = reached - back
            gone.truncate(length)
            fresh = model.new_cache(2)
            model(ids[:, :length], fresh)
            again, expected = model(ids[:, length:160], gone), model(ids[:, length:160], fresh)
            assert (again - expected).abs().max() <= TOLERANCE
            gone = model.new_cache(2)
            model(ids[:, :reached], gone)


def test_stepping_back_and_repeating_the_same_pieces_is_bit_exact(model, ids):
    with torch.no_grad():
        cache = model.new_cache(2)
        model(ids[:, :130], cache)
        expected = [model(ids[:, t : t + 1], cache) for t in range(130, 140)]
        cache.truncate(130)
        assert all(
            torch.equal(model(ids[:, t : t + 1], cache), logits)
            for t, logits in zip(range(130, 140), expected, strict=True)
        )


def test_truncate_reaches_each_sequence_and_refuses_what_it_cannot(model, ids):
    cache = model.new_cache(2)
    with torch.no_grad():
        model(ids[:, :100], cache)
    cache.truncate([95, 100])
    assert cache.lengths == [95, 100]
    for wrong, words in (([95, 83], "84 to 100"), (101, "84 to 95"), ([95], "2 sequences")):
        with pytest.raises(ValueError, match=words):
            cache.truncate(wrong)
        assert cache.lengths == [95, 100]
    cache.truncate(84)
    with pytest.raises(ValueError, match="keeps the state of lengths 84 to 84"):
        cache.truncate(83)


def test_nbytes_grows_only_with_compressed_entries(model, ids):
    cache = model.new_cache(2)
    empty = cache.nbytes()
    with torch.no_grad():
        model(ids, cache)
    c, ic = model.config.head_dim, model.config.index_head_dim
    paged = 6 * 128  # 700 tokens in whole pages
    entries = 2 * (c + ic) * (paged // 4) + 2 * c * (paged // 128)
    assert cache.nbytes() - empty == 2 * 4 * entries


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.tensor([[1, 97]]), "token id 97 is outside the vocabulary of 97"),
        (torch.tensor([[-1, 5]]), "token id -1"),
        (torch.tensor([1, 2]), "batch, n"),
        (torch.ones(1, 2), "float32"),
        (torch.ones(1, 0, dtype=torch.int64), "non-empty"),
        (torch.zeros(1, 4097, dtype=torch.int64), "4097 tokens, the context is 4096"),
    ],
)
def test_bad_ids_are_refused_and_the_cache_is_untouched(bad, words, model, device):
    cache = model.new_cache(1)
    with pytest.raises(ValueError, match=words):
        model(bad.to(device), cache)
    assert cache.lengths == [0]


def test_bad_lengths_and_batch_are_refused(model, ids):
    with pytest.raises(ValueError, match="ids are on meta, the model is on"):
        model(ids.to("meta"))
    with pytest.raises(ValueError, match="between 0 and 5"):
        model(ids[:, :5], model.new_cache(2), lengths=[6, 1])
    with pytest.raises(ValueError, match="holds 3 sequences"):
        model(ids[:, :5], model.new_cache(3))


def test_every_parameter_but_the_indexers_learns(make_model, make_ids):
    model, ids = make_model(), make_ids(2, 140)
    streams = model.streams(ids)
    drafted = model.draft_hidden(model.draft_streams(streams[:, :-1], ids[:, 1:]))
    (model.head(model.collapse(streams)).square().mean() + drafted.square().mean()).backward()
    for name, parameter in model.named_parameters():
        if ".indexer." in name:
            assert parameter.grad is None
        else:
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name
