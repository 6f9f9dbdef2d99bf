"""What tells one checkpoint's files from another's, without reading all of them.

Of every shard: its size, when it was written, and BLOCKS blocks of it. A copy with another time is
another identity, which costs a cache its hits and nothing else.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dsv4.files import check_regular

BLOCK, BLOCKS = 4096, 64


def identity(folder: str | os.PathLike[str]) -> bytes:
    """32 bytes for the config and the shards of a checkpoint. Raises OSError."""
    digest = hashlib.blake2b(digest_size=32)
    root = Path(folder)
    for file in sorted([root / "config.json", *root.glob("*.safetensors")]):
        check_regular(file)
        state = file.stat()
        digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}\n".encode())
        with file.open("rb") as stream:
            for number in range(BLOCKS):
                stream.seek(state.st_size * number // BLOCKS)
                digest.update(stream.read(BLOCK))
    return digest.digest()
