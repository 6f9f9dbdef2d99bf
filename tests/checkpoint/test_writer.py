"""Files written tensor by tensor against those of the safetensors library, byte for byte."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsv4.checkpoint.layout import TensorSpec, layout
from dsv4.checkpoint.reader import CheckpointError
from dsv4.checkpoint.writer import ShardLayout, ShardWriter, by_file, cut

from .conftest import tiny

TENSORS = {
    "b.weight": torch.randn(3, 5).to(torch.float8_e4m3fn),
    "b.scale": torch.ones(1, 1).to(torch.float8_e8m0fnu),
    "a.weight": torch.randint(-128, 127, (4, 6), dtype=torch.int8),
    "a.scale": torch.rand(4, 1),
    "ids": torch.arange(6).view(2, 3),
    "norm": torch.randn(7).bfloat16(),
    "none": torch.zeros(0, 3),
}


def specs(tensors=TENSORS):
    return {name: TensorSpec(tuple(t.shape), t.dtype, 0) for name, t in tensors.items()}


@pytest.mark.parametrize("order", [1, -1])
def test_bytes_are_those_of_the_library(tmp_path, order):
    save_file(TENSORS, tmp_path / "want", metadata={"format": "pt"})
    shard = ShardLayout(specs())
    with ShardWriter(tmp_path / "got", shard) as writer:
        for name in list(TENSORS)[::order]:
            writer.write(name, TENSORS[name])
    assert (tmp_path / "got").read_bytes() == (tmp_path / "want").read_bytes()
    assert (tmp_path / "got").stat().st_size == shard.nbytes
    assert sorted(file.name for file in tmp_path.iterdir()) == ["got", "want"]
    assert shard.read_digest(tmp_path / "got") == writer.digest


def test_views_are_written_as_they_look(tmp_path):
    wide = torch.arange(24.0).view(4, 6)
    tensors = {"t": wide.T, "s": wide[1:3, ::2]}
    with ShardWriter(tmp_path / "got", ShardLayout(specs(tensors))) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    for name, tensor in load_file(tmp_path / "got").items():
        assert torch.equal(tensor, tensors[name])


def test_digest_sees_every_byte(tmp_path):
    file, shard = tmp_path / "f", ShardLayout(specs())
    with ShardWriter(file, shard) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert shard.read_digest(file) != writer.digest, at
    file.write_bytes(whole + b"x")
    assert shard.read_digest(file) is None
    file.write_bytes(whole[:-1])
    assert shard.read_digest(file) is None


def test_bytes_that_changed_on_the_way_are_an_error(tmp_path):
    writer = ShardWriter(tmp_path / "f", ShardLayout(specs()))
    with pytest.raises(CheckpointError, match=r"f\.part reads back other bytes"), writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        writer._stream.seek(-1, 2)
        writer._stream.write(b"\x7f")
    assert not (tmp_path / "f").exists()


def test_cut_by_size_keeps_order_and_pairs():
    tensors = layout(tiny())
    for nbytes in (1, 3000, 50_000, 10**9):
        new = cut(tensors, nbytes)
        assert list(new) == list(tensors)
        files = by_file(new)
        assert [name for file in files for name in file] == list(tensors)
        for file in files:
            assert file
            names = [name for name in file if not name.endswith(".scale")]
            assert len(names) == 1 or sum(spec.nbytes for spec in file.values()) <= nbytes
            for name in file:
                if name.endswith(".scale"):
                    assert name.removesuffix("scale") + "weight" in file
    assert len(by_file(cut(tensors, 10**9))) == 1
