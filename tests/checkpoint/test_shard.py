"""Views of mapped files: the same values as safetensors reads, and no anonymous memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsv4.checkpoint.shard import Shard

TENSORS = {
    "bf16": torch.randn(3, 5).bfloat16(),
    "f32": torch.randn(7),
    "fp8": torch.randn(5, 3).to(torch.float8_e4m3fn),
    "scale": torch.tensor([[1.0, 2.0**-22]]).to(torch.float8_e8m0fnu),
    "fp4": torch.randint(-128, 127, (3, 3), dtype=torch.int8),
    "table": torch.arange(6).view(2, 3),
}


def write(path, tensors, odd=0):
    """A safetensors file in the given order, with a header that makes data begin at an odd byte."""
    header, at, data = {}, 0, b""
    names = {v: k for k, v in {"BF16": torch.bfloat16, "F32": torch.float32}.items()}
    names |= {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e8m0fnu: "F8_E8M0"}
    names |= {torch.int8: "I8", torch.int64: "I64"}
    for name, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(raw)],
        }
        at, data = at + len(raw), data + raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + odd)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def same(a, b):
    return a.dtype is b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def test_tensors_as_safetensors_reads_them(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    shard, read = Shard(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors")
    for name, tensor in TENSORS.items():
        assert same(shard.tensor(name), tensor) and same(read[name], tensor), name


def test_a_copy_holds_the_same_and_outlives_its_file(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(TENSORS, file)
    shard = Shard(file, copy=True)
    file.write_bytes(b"")  # a mapped file would be gone with this
    for name, tensor in TENSORS.items():
        assert same(shard.tensor(name), tensor), name


@pytest.mark.parametrize("odd", range(8))
@pytest.mark.parametrize("order", [list(TENSORS), list(TENSORS)[::-1]])
def test_unaligned_tensors_are_copied_and_others_viewed(odd, order, tmp_path):
    write(tmp_path / "x", {name: TENSORS[name] for name in order}, odd)
    shard = Shard(tmp_path / "x")
    low, high = shard.data.data_ptr(), shard.data.data_ptr() + shard.data.numel()
    for name in order:
        found = shard.tensor(name)
        assert same(found, TENSORS[name]), name
        first = shard.data.data_ptr() + shard.header[name]["data_offsets"][0]
        assert (low <= found.data_ptr() < high) == (first % found.itemsize == 0)
        assert found.data_ptr() % found.itemsize == 0


def test_writing_to_a_view_never_reaches_the_file(tmp_path):
    save_file(TENSORS, tmp_path / "x")
    before = (tmp_path / "x").read_bytes()
    Shard(tmp_path / "x").tensor("f32").zero_()
    assert (tmp_path / "x").read_bytes() == before


SCRIPT = """
import sys, torch, dsv4
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024
dsv4.load(sys.argv[1])
before = anonymous()
model = dsv4.load(sys.argv[2])
tensors = list(model.parameters()) + list(model.buffers())
for block in (*model.layers, *model.mtp):
    experts = block.ffn.experts
    for matrix in ("w1", "w2", "w3"):
        tensors += getattr(experts, matrix) + getattr(experts, matrix + "_scale")
size = sum(tensor.nbytes for tensor in tensors) / 2**20
for tensor in tensors:  # read every page, making nothing
    torch.aminmax(tensor.view(-1).view(torch.uint8))
print(size, anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_packed_model_holds_no_copy_of_its_weights(tmp_path):
    from dsv4 import Transformer, save

    from .conftest import random_model, tiny

    large = tiny().replace(
        vocab_size=4096, hidden_size=768, n_routed_experts=16, moe_intermediate_size=512
    )
    save(random_model(tiny()).state_dict(), tiny(), tmp_path / "small")
    model = Transformer(large)
    model.initialize(0)
    save(model.state_dict(), large, tmp_path / "large")
    folders = [str(tmp_path / name) for name in ("small", "large")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *folders],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )
    size, grown = map(float, done.stdout.split())
    assert size > 40 and grown < 4, done.stdout  # MiB
