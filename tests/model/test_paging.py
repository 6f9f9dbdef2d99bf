"""Sequences in scattered slots and pages: to the bit the logits of a cache of their own."""

from array import array

import pytest
import torch

import dsv4
from dsv4.model.cache import Cache, SequenceState, page_tokens


class Shuffled:
    """Pages in an order of their own."""

    def __init__(self, pages: int):
        self.left = torch.randperm(pages, generator=torch.Generator().manual_seed(0)).tolist()

    def take(self) -> int:
        return self.left.pop()


@pytest.fixture(params=["packed", "float"])
def either(request, make_checkpoint, make_model):
    return dsv4.load(make_checkpoint()) if request.param == "packed" else make_model()


@torch.inference_mode()
def test_scattered_pages_and_slots(either, make_ids):
    ids = make_ids(3, 300).to(either.device)
    stores = either.new_stores(7, 12)
    cache = Cache(stores, [SequenceState(slot) for slot in (5, 0, 3)], Shuffled(12))
    own = either.new_cache(3)
    for first, last, lengths in (
        (0, 200, [200, 131, 7]),
        (200, 201, None),
        (201, 240, [39, 0, 39]),
    ):
        piece = ids[:, first:last]
        found, expected = (either(piece, each, lengths) for each in (cache, own))
        for b, length in enumerate(lengths or [1, 1, 1]):
            assert torch.equal(found[b, :length], expected[b, :length])
    assert cache.lengths == own.lengths == [240, 132, 47]
    assert sorted(p for s in cache.sequences for p in s.pages) != list(range(5))


@torch.inference_mode()
def test_a_batch_of_some_of_the_sequences(either, make_ids):
    """Sequences come and go between steps, as an engine lets them."""
    ids = make_ids(2, 150).to(either.device)
    stores = either.new_stores(2, 8)
    one, two = SequenceState(1), SequenceState(0)
    pages = Shuffled(8)
    either(ids[:1], Cache(stores, [one], pages))
    either(ids[1:, :70], Cache(stores, [two], pages))
    both = either(ids[:, :1], Cache(stores, [one, two], pages))
    assert (one.length, two.length) == (151, 71)
    alone = either.new_cache(1)
    either(ids[1:, :70], alone)
    last = either(ids[1:, :1], alone)
    assert torch.allclose(both[1], last[0], atol=1e-4)
    if either.mode != "float" and either.twin is not None:
        assert torch.equal(both[1], last[0])


def test_a_page_holds_whole_entries_of_every_ratio(make_config):
    config = make_config()
    assert page_tokens(config) == 128
    odd = config.replace(
        compress_ratios=tuple({0: 0, 4: 6, 128: 10}[r] for r in config.compress_ratios)
    )
    assert page_tokens(odd) == 150  # five times 30
    whole = SequenceState.whole(config, 2, 129)
    assert whole.pages == array("i", [4, 5])
