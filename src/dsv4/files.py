"""How files are opened: only regular ones, read whole within a bound, never waited for.

A named pipe in a file's place would make a reader wait for ever, and a device may answer anything.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class FileError(ValueError):
    """A file that is no regular file, too large, no UTF-8 or no JSON: the message names it."""


def check_regular(path: Path) -> None:
    """Raises FileError for what is there but is no regular file, OSError for what is not there."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise FileError(f"{path} is {_KINDS.get(kind, 'no file')}: a regular file belongs there")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; raises as `check_regular`, even if it changes meanwhile."""
    check_regular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileError(f"{path} is no regular file any more")
    return file


def read_text(path: Path, most: int) -> str:
    """The text of a UTF-8 file of at most `most` bytes. Raises FileError, OSError."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise FileError(f"{path} has more than {most:,} bytes, which no such file needs")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no UTF-8 text: {error}") from error


def read_json(path: Path, most: int) -> Any:
    """The value of a JSON file. Raises FileError, OSError."""
    return parse_json(read_text(path, most), str(path))


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text that came from `name`. Raises FileError."""
    if not text.strip():
        raise FileError(f"{name}: empty, must be JSON")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise FileError(f"{name}: nested too deeply to be read") from error
    except ValueError as error:  # a syntax error, or a number of thousands of digits
        raise FileError(f"{name}: not JSON: {error}") from error


def size_text(nbytes: int) -> str:
    """Bytes as a reader takes them in: 999 bytes, 1.2 kB, 159.6 GB."""
    size, unit = float(nbytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < (1000 if unit == "bytes" else 999.95):
            break
        size, unit = size / 1000, larger
    return f"{nbytes:,} bytes" if unit == "bytes" else f"{size:,.1f} {unit}"
