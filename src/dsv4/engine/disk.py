"""Prefixes on disk: files that are named by their content and checked when they are read.

    MAGIC | length of the header, 4 bytes | header, JSON | tensors' bytes | BLAKE2b of all before

A file is written beside its place and moved there, so that a crash leaves nothing half; what is
damaged all the same is no entry, and is removed. Equal names hold equal contents, so processes that
share a folder need no lock. Nothing here ever fails a request: a disk that is full or cannot be
written to only means that less is found later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsv4.engine.listing import Listing

log = logging.getLogger("dsv4.engine")

MAGIC = b"dsv4 prefix 1\n"
DIGEST = 32
WAITING = 256 << 20  # bytes that may wait to be written
HOUR = 3600.0


@dataclass(frozen=True)
class Stored:
    """One file that was read: its header, and its tensors."""

    header: Mapping[str, Any]
    tensors: list[Tensor]


class DiskStore:
    """Files of one model in `folder`, `limit` bytes of them at most, least lately used first out.

    `per_hour` bounds the bytes that are written in an hour (flash wears out); None does not.
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int, per_hour: int | None = None):
        self.folder, self.limit, self.per_hour = Path(folder), limit, per_hour
        self.written = self.refused = self.damaged = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._listing = Listing(self.folder)
        self._queued: set[str] = set()
        self._queue: queue.Queue[tuple[str, bytes, list[Tensor]] | None] = queue.Queue()
        self._waiting = 0
        self._said = False
        with contextlib.suppress(OSError):  # said when something is to be written
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_unfinished()
        self._thread = threading.Thread(target=self._write_all, name="dsv4-prefix", daemon=True)
        self._thread.start()

    # ---- reading -----------------------------------------------------------------------------

    def names(self) -> dict[str, int]:
        """Every file and its bytes."""
        return self._listing.sizes()

    def holds(self, name: str) -> bool:
        """Whether a file is there, or about to be."""
        return name in self._queued or name in self._listing

    def group(self, key: str) -> list[str]:
        """The files whose names begin with `key` and a point."""
        return self._listing.group(key)

    def read(self, name: str) -> Stored | None:
        """A file's contents; None if there is none or it is damaged."""
        file = self.folder / name
        try:
            raw = file.read_bytes()
        except OSError:
            self._listing.drop(name)
            return None
        stored = _parse(raw)
        if stored is None:
            self.damaged += 1
            log.warning("a damaged prefix file is removed: %s", file)
            self._remove(name)
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        return stored

    def header(self, name: str) -> Mapping[str, Any] | None:
        """A file's header alone, not yet checked against the digest."""
        try:
            with (self.folder / name).open("rb") as file:
                start = file.read(len(MAGIC) + 4)
                length = int.from_bytes(start[len(MAGIC) :], "little")
                if not start.startswith(MAGIC) or length > 1 << 24:
                    return None
                value = json.loads(file.read(length))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    # ---- writing -----------------------------------------------------------------------------

    def write(self, name: str, header: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
        """Have a file written in the background; the tensors must not change any more."""
        size = sum(tensor.nbytes for tensor in tensors)
        if self.holds(name) or not self._may_write(size):
            return
        self._queued.add(name)
        shapes = [[list(t.shape), str(t.dtype).removeprefix("torch.")] for t in tensors]
        self._waiting += size
        self._queue.put((name, json.dumps({**header, "tensors": shapes}).encode(), list(tensors)))

    def flush(self) -> None:
        """Wait until everything is written."""
        self._queue.join()

    def close(self) -> None:
        """Write what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    def _may_write(self, size: int) -> bool:
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > HOUR:
            self._recent.popleft()
        spent = sum(size for _, size in self._recent)
        allowed = self.per_hour is None or spent + size <= self.per_hour
        if not allowed or self._waiting + size > WAITING or size > self.limit:
            self.refused += 1
            return False
        self._recent.append((now, size))
        return True

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            name, header, tensors = item
            try:
                self._write(name, header, tensors)
                self.written += 1
            except OSError as error:
                self.refused += 1
                if not self._said:
                    self._said = True
                    log.warning("prefixes are not kept in %s: %s", self.folder, error)
            finally:
                self._queued.discard(name)
                self._waiting -= sum(tensor.nbytes for tensor in tensors)
                self._queue.task_done()
        self._queue.task_done()

    def _write(self, name: str, header: bytes, tensors: Sequence[Tensor]) -> None:
        digest = hashlib.blake2b(digest_size=DIGEST)
        unfinished, path = tempfile.mkstemp(prefix=f".{os.getpid()}.", dir=self.folder)
        try:
            with os.fdopen(unfinished, "wb") as file:
                parts = [MAGIC, len(header).to_bytes(4, "little"), header]
                for part in [*parts, *(_bytes(tensor) for tensor in tensors)]:
                    file.write(part)
                    digest.update(part)
                file.write(digest.digest())
                size = file.tell()
            Path(path).replace(self.folder / name)
            self._listing.add(name, size)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(path).unlink()
            raise
        self._trim()

    def _trim(self) -> None:
        """Remove what was used longest ago while there is too much."""
        sizes = self.names()
        total = sum(sizes.values())
        if total <= self.limit:
            return
        used = []
        for name, size in sizes.items():
            try:
                used.append(((self.folder / name).stat().st_mtime_ns, name, size))
            except OSError:  # another process was here
                self._listing.drop(name)
                total -= size
        for _, name, size in sorted(used):
            if total <= self.limit * 0.9:
                break
            self._remove(name)
            total -= size

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()
        self._listing.drop(name)

    def _clear_unfinished(self) -> None:
        """Remove what a process that is gone left half written."""
        for file in self.folder.glob(".[0-9]*.*"):
            process = file.name.split(".")[1]
            if process.isdigit() and not Path(f"/proc/{process}").exists():
                with contextlib.suppress(OSError):
                    file.unlink()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _parse(raw: bytes) -> Stored | None:
    """A file's contents, if every byte is as it was written."""
    if len(raw) < len(MAGIC) + 4 + DIGEST or not raw.startswith(MAGIC):
        return None
    if hashlib.blake2b(raw[:-DIGEST], digest_size=DIGEST).digest() != raw[-DIGEST:]:
        return None
    at = len(MAGIC) + 4
    length = int.from_bytes(raw[at - 4 : at], "little")
    header = json.loads(raw[at : at + length])
    at += length
    tensors = []
    for shape, name in header["tensors"]:
        dtype: torch.dtype = getattr(torch, name)
        size = math.prod(shape) * dtype.itemsize
        data = torch.frombuffer(bytearray(raw[at : at + size] or b"\0"), dtype=torch.uint8)
        tensors.append(data[:size].view(dtype).view(shape))
        at += size
    return Stored(header, tensors)
