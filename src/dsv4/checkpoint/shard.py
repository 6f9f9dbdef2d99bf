"""A safetensors file in memory without being read: header length (8 bytes), header (JSON), data.

A tensor is a view of the mapped file, so its pages are the page cache's own: shared between
processes, dropped when memory is short, read when touched. The mapping is private: writing to such
a tensor copies the page and never reaches the file. Copied instead, the file lies in memory of its
own, in large pages where the system has them, which processors read faster.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsv4.checkpoint.layout import DTYPE_NAMES

DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's value, which Python names since 3.13


class Shard:
    """One file, mapped or copied, whose header the reader has found to be sound."""

    def __init__(self, path: Path, *, copy: bool = False):
        with path.open("rb", buffering=0) as file:
            length = int.from_bytes(file.read(8), "little")
            self.header: dict[str, Any] = json.loads(file.read(length))
            memory = _copy(file) if copy else _map(file.fileno())
            self.data = torch.frombuffer(memory, dtype=torch.uint8)[8 + length :]
        self.start = 8 + length

    @property
    def place(self) -> tuple[int, int]:
        """Address and bytes of the file in memory."""
        whole = self.data.untyped_storage()
        return whole.data_ptr(), whole.nbytes()

    def tensor(self, name: str) -> Tensor:
        """A view of the file, or a copy where the tensor does not begin at a multiple of its
        element's size: not every processor can read it there.
        """
        entry = self.header[name]
        first, last = entry["data_offsets"]
        dtype, data = DTYPES[entry["dtype"]], self.data[first:last]
        if (self.start + first) % dtype.itemsize:
            data = data.clone()
        return data.view(dtype).view(entry["shape"])


def _copy(file: FileIO) -> mmap.mmap:
    size = os.fstat(file.fileno()).st_size
    if os.name == "nt":
        memory = mmap.mmap(-1, size)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a hint: a system without large pages refuses it
            memory.madvise(mmap.MADV_HUGEPAGE)
    file.seek(0)
    rest = memoryview(memory)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise OSError(f"{file.name} ended {len(rest)} bytes early")
        rest = rest[count:]
    return memory


def _map(file: int) -> mmap.mmap:
    if os.name == "nt":
        return mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE  # writable, since torch has no read-only tensors
    if os.uname().sysname == "Linux":
        flags |= NO_RESERVE  # else a file larger than memory might be refused
    return mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
