"""The files of a folder that several processes write to, known without looking each time.

What this process adds and removes is noted at once. What others do is seen when the folder is
looked through again: once it has changed, and after a rest of REST times what a look takes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

REST = 100


class Listing:
    """Names and bytes of a folder's files, hidden ones left out; for any thread."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._sizes: dict[str, int] = {}
        self._groups: dict[str, set[str]] = {}
        self._lock = threading.Lock()
        self._changed, self._next = -1, 0.0  # when it was, and when it may be looked through

    def __contains__(self, name: str) -> bool:
        with self._lock:
            self._refresh()
            return name in self._sizes

    def group(self, key: str) -> list[str]:
        """The names whose part before the first point is `key`."""
        with self._lock:
            self._refresh()
            return sorted(self._groups.get(key, ()))

    def sizes(self) -> dict[str, int]:
        """Every file and its bytes."""
        with self._lock:
            self._refresh()
            return dict(self._sizes)

    def add(self, name: str, size: int) -> None:
        """A file was written."""
        with self._lock:
            self._put(name, size)

    def drop(self, name: str) -> None:
        """A file was removed, or is not there."""
        with self._lock:
            if self._sizes.pop(name, None) is not None:
                key = name.partition(".")[0]
                self._groups[key].remove(name)
                if not self._groups[key]:
                    del self._groups[key]

    def _put(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self._groups.setdefault(name.partition(".")[0], set()).add(name)

    def _refresh(self) -> None:
        began = time.monotonic()
        if began < self._next:
            return
        changed = -1
        with contextlib.suppress(OSError):
            changed = self.folder.stat().st_mtime_ns
        if changed == self._changed:
            return
        self._changed = changed
        self._sizes, self._groups = {}, {}
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    with contextlib.suppress(OSError):
                        self._put(entry.name, entry.stat().st_size)
        ended = time.monotonic()
        self._next = ended + REST * (ended - began)
