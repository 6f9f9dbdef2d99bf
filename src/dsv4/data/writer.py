"""A token file as it grows: `.NAME.tokens.part` and `.NAME.offsets.part`, and counts that say how
much of both is whole. `finish` makes the token file of them; until then nothing has its name.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dsv4.atomic import write_error
from dsv4.data.tokens import Header, dtype_of, paths_of, sha256_of, write_index


@dataclass
class Grown:
    """How much stands, in tokens, documents, bytes of text; and the largest id."""

    tokens: int = 0
    documents: int = 0
    nbytes: int = 0
    largest: int = -1


class TokenWriter:
    """Appends documents to a token file that is being made.

    `grown` is what a writer before this one had when it last synced: what is behind that is cut
    off. Raises: WriteError for what the system refuses, ValueError where less stands than that.
    """

    def __init__(self, folder: Path, name: str, vocab: int, grown: Grown | None = None):
        self.folder, self.name, self.dtype = folder, name, dtype_of(vocab)
        self.grown = grown or Grown()
        self.part, self._ends = (folder / f".{name}.{kind}.part" for kind in ("tokens", "offsets"))
        self._files = [
            self._open(self.part, self.grown.tokens * self.dtype.itemsize),
            self._open(self._ends, self.grown.documents * 8),
        ]

    def append(self, ids: np.ndarray, lengths: np.ndarray, nbytes: int) -> None:
        """The ids of some documents end to end, their lengths, and the bytes of their text."""
        ends = self.grown.tokens + np.cumsum(lengths, dtype="<u8")
        for file, path, values in zip(
            self._files, (self.part, self._ends), (ids.astype(self.dtype), ends), strict=True
        ):
            try:
                file.write(values.tobytes())
            except OSError as error:
                raise write_error(path, error) from error
        largest = int(ids.max()) if len(ids) else -1
        self.grown = Grown(
            self.grown.tokens + len(ids),
            self.grown.documents + len(lengths),
            self.grown.nbytes + nbytes,
            max(self.grown.largest, largest),
        )

    def sync(self) -> None:
        """Force what was appended to disk."""
        for file, path in zip(self._files, (self.part, self._ends), strict=True):
            try:
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise write_error(path, error) from error

    def finish(self, made: dict[str, Any]) -> Header:
        """Move the ids to their place and write the index."""
        self.sync()
        offsets = np.zeros(self.grown.documents + 1, dtype="<u8")
        offsets[1:] = np.fromfile(self._ends, dtype="<u8")
        header = Header(
            dtype=self.dtype.str, sha256=sha256_of(self.part), made=made, **asdict(self.grown)
        )
        path, index = paths_of(self.folder, self.name)
        try:
            index.unlink(missing_ok=True)  # no moment has an index with other ids
            self.part.replace(path)
        except OSError as error:
            raise write_error(path, error) from error
        write_index(index, header, offsets)
        self.close()
        self._ends.unlink()
        return header

    def close(self) -> None:
        """Leave the parts as they are."""
        for file in self._files:
            file.close()

    def _open(self, path: Path, size: int) -> BinaryIO:
        try:
            file = path.open("r+b" if size else "wb")
            if file.seek(0, os.SEEK_END) < size:
                file.close()
                raise ValueError(f"{path} is shorter than it was")
            file.truncate(size)
            file.seek(size)
        except FileNotFoundError as error:
            raise ValueError(f"{path} is gone") from error
        except OSError as error:
            raise write_error(path, error) from error
        return file
