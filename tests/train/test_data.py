"""Prepared data that is damaged, of another model or too little is refused by its file's name."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from dsv4.train.data import DataError, PackedRows


@pytest.fixture
def data(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "data")


def refused(data, what, part="train", seq_len=32):
    with pytest.raises(DataError, match=what) as error:
        PackedRows(data, part, seq_len=seq_len, eos=1, seed=0, vocab=400)
    assert "\n" not in str(error.value)


def test_a_token_file_that_is_not_what_the_counts_promise(data):
    file = data / "train.npy"
    whole, tokens = file.read_bytes(), np.load(file)
    for damaged in (b"", whole[:7], whole[:60], whole[:-4], b"\x00" * 500, whole[::-1]):
        file.write_bytes(damaged)
        refused(data, "train.npy is damaged.*delete .* to have it prepared again")
    for other in (tokens[:-1], tokens.astype(np.int64), tokens.reshape(1, -1)):
        np.save(file, other)
        refused(data, "train.npy holds .*tokens.json promises")
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(data, "train.npy is damaged")
    tokens[7] = 400
    np.save(file, tokens)
    refused(data, "train.npy holds token 400, this model's vocabulary ends at 399")
    file.unlink()
    refused(data, "train.npy is damaged .*No such file")
    os.mkfifo(file)
    refused(data, "train.npy is damaged .*named pipe")


def test_counts_that_cannot_be_used(data):
    file = data / "tokens.json"
    for text in ("", "{", "[]", "{}", "null", '{"train": {"tokens": 3}}', "[" * 100_000):
        file.write_text(text)
        refused(data, "tokens.json is damaged")
    for part in ("train", "validation"):
        counts = {name: {"tokens": 9, "bytes": 9} for name in ("train", "validation")}
        counts[part]["tokens"] = 0
        file.write_text(json.dumps(counts))
        refused(data, "tokens.json counts no tokens")


def test_too_little_text(data, run):
    refused(data, r"validation.npy holds \d+ tokens, fewer than one row", "validation", 4000)
    counts = json.loads((data / "tokens.json").read_text())
    nothing = np.ones(counts["validation"]["tokens"], dtype=np.uint32)  # documents without text
    np.save(data / "validation.npy", nothing)
    with pytest.raises(DataError, match=r"validation.npy holds no token after another"):
        run(data=data).evaluate()


def test_a_forked_loader_gives_the_same_batches(folder, run):
    run().train_step()  # the parent's threads have computed
    rows = PackedRows(folder, "train", seq_len=32, eos=1, seed=0, vocab=400)

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
