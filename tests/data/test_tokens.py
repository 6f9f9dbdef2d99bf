"""A token file that is not what its index promises is refused by name, with the remedy."""

import os
import pickle
import shutil

import numpy as np
import pytest

from dsv4.data.errors import DataError
from dsv4.data.tokens import TokenFile, dtype_of


@pytest.fixture
def folder(files, tmp_path):
    return shutil.copytree(files["train"].path.parent, tmp_path / "data")


def refused(folder, what):
    with pytest.raises(DataError, match=what) as error:
        TokenFile(folder, "train").verify()
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(f"delete {folder} to have it prepared again")


def test_damaged_ids(folder):
    path = folder / "train.tokens"
    whole = path.read_bytes()
    for other in (b"", whole[:7], whole[:-2], whole + b"\0\0"):
        path.write_bytes(other)
        refused(folder, f"train.tokens has {len(other):,} bytes, train.index promises")
    path.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    refused(folder, "train.tokens is damaged: not the ids")
    path.unlink()
    refused(folder, "train.tokens cannot be read .*No such file")
    os.mkfifo(path)
    refused(folder, "train.tokens cannot be read .*named pipe")


def test_damaged_index(folder):
    path = folder / "train.index"
    whole = path.read_bytes()
    at = len(whole) // 2
    flipped = whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :]
    for other in (b"", whole[:40], whole[:-8], whole[::-1], flipped, b"\0" * 500):
        path.write_bytes(other)
        refused(folder, "train.index is damaged")


def test_a_file_that_is_cut_while_it_is_mapped(folder):
    file = TokenFile(folder, "train")
    before = file.read(0, 50)
    os.truncate(file.path, 1000)
    with pytest.raises(DataError, match=r"has 1,000 bytes.*delete"):
        file.read(10_000, 10_050)
    with pytest.raises(DataError, match="has 1,000 bytes"):
        file.read(0, 50)
    assert len(before) == 50


def test_another_vocabulary(files):
    largest = files["train"].header.largest
    files["train"].check_fits(largest + 1)
    with pytest.raises(DataError, match=f"vocabulary ends at {largest - 1}: .*another folder"):
        files["train"].check_fits(largest)


def test_ids_are_as_small_as_the_vocabulary_allows(files):
    assert dtype_of(65_536) == np.uint16 and dtype_of(65_537) == np.uint32
    assert files["train"].read(0, 3).dtype == np.uint16


def test_another_process_maps_the_file_for_itself(files):
    file = pickle.loads(pickle.dumps(files["train"]))
    assert np.array_equal(file.read(0, 99), files["train"].read(0, 99))
