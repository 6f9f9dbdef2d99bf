"""Batches as tensors: the same from a position whenever asked for, also by a forked loader."""

import json
import shutil
from itertools import pairwise

import pytest
import torch

from dsv4.tokenizer import Tokenizer
from dsv4.train.data import DataError, Feed
from dsv4.train.recipe import Text


def test_the_tokenizer_has_the_releases_control_tokens(folder):
    tokenizer, released = Tokenizer.load(folder), Tokenizer.deepseek()
    assert tokenizer.vocab_size == 400
    for token in ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"):
        assert tokenizer.token_id(token) == released.token_id(token)
    for token in ("<｜User｜>", "</think>", "｜DSML｜", "<｜read_url｜>"):
        assert tokenizer.encode(token, special=True) == [tokenizer.token_id(token)]


def test_weights_of_folders_are_spread_over_their_sources(folder, tmp_path):
    one = tmp_path / "one"
    one.symlink_to(folder)
    texts = [Text(folder=str(one), weight=3.0), Text(folder=str(folder), weight=1.0, epochs=2)]
    both = Feed(texts, seed=0, eos=1, vocab=400)
    assert [source.share for source in both.sources] == [3.0, 1.0]
    assert [source.epochs for source in both.sources] == [None, 2]
    assert [source.name for source in both.sources] == ["one/words", f"{folder.name}/words"]
    assert [source.name for source in feed(folder).sources] == ["words"]


def test_a_stage_leaves_out_short_documents(folder, run):
    """From any position, and back: what rests keeps its place."""
    lengths = [b - a for a, b in pairwise(feed(folder).sources[0].file.offsets.tolist())]
    least = sorted(lengths)[len(lengths) // 2]
    one, other = feed(folder), feed(folder)
    one.next(4, 64)
    long = one.next(4, 64, least)
    whole = {length for row in long.documents for length in row}
    assert whole and min(whole) >= least
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for what in ((2, 64, least), (2, 64, 0), (2, 64, least)):
        assert torch.equal(other.next(*what).ids, one.next(*what).ids)
    with pytest.raises(DataError, match=r"no document has 999 tokens: lower stages.least"):
        run(stages=[{}, {"least": 999}])
    assert run(stages=[{"least": least}]).train_step()


def feed(folder, seed=0, vocab=400):
    return Feed([Text(folder=str(folder))], seed=seed, eos=1, vocab=vocab)


def test_batches_follow_from_the_position(folder):
    one, other = feed(folder), feed(folder)
    first = one.next(4, 64)
    position = one.state_dict()
    later = one.next(4, 64)
    assert torch.equal(other.next(4, 64).ids, first.ids)
    other.load_state_dict(position)
    assert torch.equal(other.next(4, 64).ids, later.ids)
    assert not torch.equal(feed(folder, seed=1).next(4, 64).ids, first.ids)
    assert first.ids.dtype == torch.int64 and first.ids.shape == (4, 64)
    assert all(0 < sum(row) <= 64 for row in first.documents)


def test_damaged_or_foreign_data_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="vocabulary ends at 299"):
        feed(folder, vocab=300)
    data = shutil.copytree(folder, tmp_path / "data")
    with (data / "words/train.tokens").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(DataError, match=r"train.tokens is damaged.*to have it prepared again"):
        feed(data)


def test_a_file_that_ends_before_its_index_says_so(folder, tmp_path, run):
    data = shutil.copytree(folder, tmp_path / "data")
    one = run(text=(Text(folder=str(data)),))
    one.train_step()
    with (data / "words/train.tokens").open("r+b") as file:
        file.truncate(2000)
    for call in (one.train_step, lambda: feed(data)):
        with pytest.raises(DataError, match=r"train.tokens has 2,000 bytes, train.index promises"):
            call()
    assert one.step == 1  # and the process lives


def test_a_forked_loader_gives_the_same_batches(folder, run):
    run().train_step()  # the parent's threads have computed
    ahead, here = feed(folder), feed(folder)

    class Steps(torch.utils.data.IterableDataset):
        def __iter__(self):
            return (ahead.next(4, 32).ids for _ in range(3))

    loader = torch.utils.data.DataLoader(
        Steps(), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    for ids in loader:
        assert torch.equal(ids, here.next(4, 32).ids)
