"""Batches as tensors: the same for a step whenever asked for, also by a forked loader."""

import shutil

import pytest
import torch

from dsv4.train.data import DataError, PackedRows


def packed(folder, seq_len, seed=0):
    return PackedRows(folder, "train", seq_len=seq_len, eos=1, seed=seed, vocab=400)


def test_a_batch_follows_from_its_step(folder):
    rows = packed(folder, 64)
    first, later = rows.batch(0, 4), rows.batch(3, 4)
    assert torch.equal(rows.batch(0, 4).ids, first.ids)
    assert torch.equal(packed(folder, 64).batch(3, 4).ids, later.ids)
    assert not torch.equal(packed(folder, 64, seed=1).batch(0, 4).ids, first.ids)
    assert first.ids.dtype == torch.int64 and first.ids.shape == (4, 64)
    assert all(0 < sum(row) <= 64 for row in first.documents)


def test_damaged_or_foreign_data_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="vocabulary ends at 299"):
        PackedRows(folder, "train", seq_len=32, eos=1, seed=0, vocab=300)
    data = shutil.copytree(folder, tmp_path / "data")
    with (data / "words/train.tokens").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(DataError, match=r"train.tokens is damaged.*to have it prepared again"):
        packed(data, 32)


def test_a_forked_loader_gives_the_same_batches(folder, run):
    run().train_step()  # the parent's threads have computed
    rows = packed(folder, 32)

    class Steps(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, step):
            return rows.batch(step, 4).ids

    loader = torch.utils.data.DataLoader(
        Steps(), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    for step, ids in enumerate(loader):
        assert torch.equal(ids, rows.batch(step, 4).ids)
