"""Another checkpoint, or the same with other weights, has another identity."""

import os
import shutil

from dsv4.checkpoint.identity import identity
from dsv4.checkpoint.load import packaged


def test_equal_files_are_equal_and_changed_ones_are_not(tmp_path):
    one = shutil.copytree(packaged(), tmp_path / "one")
    assert identity(one) == identity(one)
    two = shutil.copytree(one, tmp_path / "two")
    assert identity(two) == identity(one)  # copied with its times
    shard = sorted(two.glob("*.safetensors"))[0]
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2 + 1] ^= 1
    times = shard.stat()
    shard.write_bytes(raw)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert identity(two) != identity(one)  # a sampled block
    shard.write_bytes(raw)
    os.utime(shard, ns=(1, 1))
    assert identity(two) != identity(one)
    (one / "config.json").write_text((one / "config.json").read_text() + " ")
    assert identity(one) != identity(packaged())
