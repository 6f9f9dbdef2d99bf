"""One safetensors file, written tensor by tensor: its header follows from shapes and dtypes alone.

    8 bytes n, little-endian | JSON of n bytes, padded with spaces to 8 | the tensors' bytes

Wider dtypes come first, so that every tensor is aligned; then names, as the safetensors library
orders them. A file appears under its name when it is whole and was read back.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.layout import DTYPE_NAMES, TensorSpec

ORDER = {dtype: place for place, dtype in enumerate(DTYPE_NAMES)}
PIECE = 1 << 22  # bytes in memory while a file is read back


class ShardLayout:
    """The layout of one file: header, place of each tensor [start, end) from the file's start."""

    def __init__(self, tensors: Mapping[str, TensorSpec]):
        ordered = sorted(tensors, key=lambda name: (ORDER[tensors[name].dtype], name))
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in ordered:
            spec, start = tensors[name], end
            end = start + spec.nbytes
            entries[name] = {
                "dtype": DTYPE_NAMES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self.tensors = tensors
        self.header = len(text).to_bytes(8, "little") + text
        self.nbytes = len(self.header) + end
        self.places: dict[str, tuple[int, int]] = {}
        start = len(self.header)
        for name in ordered:
            self.places[name] = start, start + tensors[name].nbytes
            start += tensors[name].nbytes

    def read_digest(self, file: Path) -> str | None:
        """The digest of a file of this layout; None if its size or header is another."""
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != self.nbytes:
                return None
            if stream.read(len(self.header)) != self.header:
                return None
            parts = {}
            for name, (start, end) in self.places.items():  # in the order of the file
                part = hashlib.sha256()
                for at in range(start, end, PIECE):
                    part.update(stream.read(min(PIECE, end - at)))
                parts[name] = part.digest()
        return self.digest(parts)

    def digest(self, parts: Mapping[str, bytes]) -> str:
        """SHA-256 over the header and each tensor's own SHA-256, in the order of the file."""
        whole = hashlib.sha256(self.header)
        for name in self.places:
            whole.update(parts[name])
        return whole.hexdigest()


class ShardWriter:
    """Writes one `ShardLayout` in any order of its tensors; use it as a context.

    Leaving it without an error reads the file back, compares it with what was given to `write`,
    and moves it from `file.part` to `file`; `digest` is then set. Nothing but `file.part` is left
    by an error.
    Raises: CheckpointError if what is read back differs.
    """

    def __init__(self, file: Path, shard: ShardLayout):
        self.file, self.shard = file, shard
        self.part = file.with_name(file.name + ".part")
        self.digest = ""
        self._written: dict[str, bytes] = {}
        self._stream: BinaryIO = self.part.open("wb")
        self._stream.write(shard.header)

    def write(self, name: str, tensor: Tensor) -> None:
        """Put one tensor, of the shape and dtype that the layout gives it, at its place."""
        spec = self.shard.tensors[name]
        assert (tuple(tensor.shape), tensor.dtype) == (spec.shape, spec.dtype), name
        # a view as bytes, without a copy where the tensor lies in one piece
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        self._stream.seek(self.shard.places[name][0])
        self._stream.write(data)
        self._written[name] = hashlib.sha256(data).digest()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with self._stream:
            if kind is not None:
                return
            missing = self.shard.places.keys() - self._written.keys()
            assert not missing, missing
            self._stream.truncate(self.shard.nbytes)  # a last tensor without numbers
            self._stream.flush()
            os.fsync(self._stream.fileno())
            if hasattr(os, "posix_fadvise"):  # so that the disk answers, not the page cache
                os.posix_fadvise(self._stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.digest = self.shard.digest(self._written)
        if self.shard.read_digest(self.part) != self.digest:
            raise CheckpointError(
                f"{self.part} reads back other bytes than were written: check the disk"
            )
        self.part.replace(self.file)


def by_file(tensors: Mapping[str, TensorSpec]) -> list[dict[str, TensorSpec]]:
    """The tensors of each shard, in their given order."""
    count = 1 + max(spec.shard for spec in tensors.values())
    files: list[dict[str, TensorSpec]] = [{} for _ in range(count)]
    for name, spec in tensors.items():
        files[spec.shard][name] = spec
    return files


def cut(tensors: Mapping[str, TensorSpec], nbytes: int) -> dict[str, TensorSpec]:
    """The same tensors in new shards of at most `nbytes` of data each, in their given order.

    A weight and its scale stay together; a pair that is larger has a shard of its own.
    """
    found: dict[str, TensorSpec] = {}
    shard, held = 0, 0
    for weight in (name for name in tensors if not name.endswith(".scale")):
        names = [weight]
        scale = weight.removesuffix(".weight") + ".scale"
        if weight.endswith(".weight") and scale in tensors:
            names.append(scale)
        size = sum(tensors[name].nbytes for name in names)
        if held and held + size > nbytes:
            shard, held = shard + 1, 0
        held += size
        for name in names:
            found[name] = replace(tensors[name], shard=shard)
    return found
