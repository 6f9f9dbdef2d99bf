"""Spellings on disk: key → ids, in one SQLite file that several servers may share.

An entry carries a digest, so one that is damaged is none. What the disk cannot do is left undone:
a spelling that is missing costs time, never an answer.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from array import array
from pathlib import Path

log = logging.getLogger("dsv4.server")

MOST = 100_000  # entries
DIGEST = 16


class SpellingFile:
    """The entries of one tokenizer, the newest of them."""

    def __init__(self, file: Path, most: int = MOST):
        self._most, self._lock = most, threading.Lock()
        self._written = 0
        self._base: sqlite3.Connection | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(file, timeout=1.0, check_same_thread=False, isolation_level=None)
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = NORMAL")
            base.execute("CREATE TABLE IF NOT EXISTS said (key BLOB PRIMARY KEY, ids BLOB)")
            self._base = base
        except (OSError, sqlite3.Error) as error:
            log.warning("replies are remembered in memory alone: %s: %s", file, error)

    def get(self, key: bytes) -> array[int] | None:
        """The ids of a key, if they are there and whole."""
        if self._base is None:
            return None
        try:
            with self._lock:
                found = self._base.execute("SELECT ids FROM said WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error:
            return None
        data = bytes(found[0]) if found is not None and isinstance(found[0], bytes) else b""
        if len(data) <= DIGEST or _digest(key, data[DIGEST:]) != data[:DIGEST]:
            return None
        ids = array("i")
        ids.frombytes(data[DIGEST:])
        return ids

    def put(self, key: bytes, ids: array[int]) -> None:
        """Keep them; the oldest make room from time to time."""
        if self._base is None:
            return
        data = ids.tobytes()
        try:
            with self._lock:
                self._base.execute(
                    "INSERT OR REPLACE INTO said VALUES (?, ?)", (key, _digest(key, data) + data)
                )
                self._written += 1
                if self._written % 1000 == 0:
                    self._base.execute(
                        "DELETE FROM said WHERE rowid <= (SELECT max(rowid) FROM said) - ?",
                        (self._most,),
                    )
        except sqlite3.Error:
            log.debug("a reply was not remembered on disk", exc_info=True)

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            if self._base is not None:
                self._base.close()
                self._base = None


def _digest(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(key + data, digest_size=DIGEST).digest()
