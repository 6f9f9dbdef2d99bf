"""Token files: NAME.tokens holds ids end to end, NAME.index says what they are.

The index is one line `dsv4-tokens 1 SHA-256-of-what-follows`, one line of JSON padded to a multiple
of 8, and the documents' offsets, uint64 [documents + 1]. It is written last: where it is, the ids
are whole. Ids are uint16 where the vocabulary allows, uint32 otherwise, little-endian.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dsv4.atomic import replacing
from dsv4.data.errors import DataError
from dsv4.files import open_regular

MAGIC = b"dsv4-tokens 1 "
FIRST_LINE = len(MAGIC) + 64 + 1
REMEDY = "delete {} to have it prepared again"
BLOCK = 1 << 24  # bytes that are hashed together


@dataclass(frozen=True)
class Header:
    """What a token file holds. `nbytes` counts the UTF-8 bytes of the text between the control
    tokens; `made` is what it was made from, and how."""

    dtype: str
    tokens: int
    documents: int
    nbytes: int
    largest: int  # id; -1 without tokens
    sha256: str  # of the ids
    made: dict[str, Any] = field(default_factory=dict)


def dtype_of(vocab: int) -> np.dtype[Any]:
    """The smallest type that holds every id below `vocab`."""
    return np.dtype("<u2" if vocab <= 1 << 16 else "<u4")


def paths_of(folder: Path, name: str) -> tuple[Path, Path]:
    """The two files of a token file: ids and index."""
    return folder / f"{name}.tokens", folder / f"{name}.index"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_index(path: Path, header: Header, offsets: np.ndarray) -> None:
    """Write an index whose ids are in place. Raises WriteError."""
    text = json.dumps(asdict(header), ensure_ascii=False).encode()
    text += b" " * (-(FIRST_LINE + len(text) + 1) % 8) + b"\n"
    body = text + offsets.astype("<u8").tobytes()
    with replacing(path) as stream:
        stream.write(MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n")
        stream.write(body)


def read_index(folder: Path, name: str) -> tuple[Header, np.ndarray]:
    """The header and the documents' offsets of a token file. Raises DataError if it is damaged."""
    index = paths_of(folder, name)[1]
    try:
        with open_regular(index) as file:
            first, body = file.read(FIRST_LINE), file.read()
        if first != MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n":
            raise ValueError("not the index that was written")
        line, _, rest = body.partition(b"\n")
        header = Header(**json.loads(line))
        offsets = np.frombuffer(rest, dtype="<u8").astype(np.int64)
        if len(offsets) != header.documents + 1 or offsets[-1] != header.tokens:
            raise ValueError("its offsets do not end where its ids do")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{index} is damaged ({error}): {REMEDY.format(folder)}") from error
    return header, offsets


class TokenFile:
    """The ids of many documents, mapped.

    Raises: DataError if the index is damaged or the ids are shorter or longer than it says.
    """

    def __init__(self, folder: Path, name: str):
        self.path, self.index = paths_of(folder, name)
        self.remedy = REMEDY.format(folder)
        self.header, self.offsets = read_index(folder, name)
        self._dtype = np.dtype(self.header.dtype)
        self._size = self.header.tokens * self._dtype.itemsize
        try:
            self._file = open_regular(self.path)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read ({error}): {self.remedy}") from error
        self._check_size()
        self._ids = np.zeros(0, dtype=self._dtype)
        if self._size:
            mapped = mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ)
            self._ids = np.frombuffer(mapped, dtype=self._dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenFile, (self.path.parent, self.path.stem)  # a process maps it for itself

    def read(self, start: int, end: int) -> np.ndarray:
        """Ids [end − start] as they lie in the file. Raises DataError if it has been cut since."""
        self._check_size()  # a page past a file's end would end the process
        return self._ids[start:end]

    def verify(self) -> None:
        """Read every id. Raises DataError if one is not what was written."""
        digest = hashlib.sha256()
        step = BLOCK // self._dtype.itemsize
        for start in range(0, self.header.tokens, step):
            digest.update(self.read(start, start + step).tobytes())
        if digest.hexdigest() != self.header.sha256:
            raise DataError(f"{self.path} is damaged: not the ids that were written: {self.remedy}")

    def check_fits(self, vocab: int) -> None:
        """Raises DataError if some id is past a model's vocabulary."""
        if self.header.largest >= vocab:
            raise DataError(
                f"{self.path} holds token {self.header.largest}, this model's vocabulary ends at "
                f"{vocab - 1}: it was prepared for another model, train into another folder"
            )

    def _check_size(self) -> None:
        found = os.fstat(self._file.fileno()).st_size
        if found != self._size:
            raise DataError(
                f"{self.path} has {found:,} bytes, {self.index.name} promises {self._size:,}: "
                f"{self.remedy}"
            )
