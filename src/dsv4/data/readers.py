"""Text, JSON lines and parquet → documents, one at a time; what is bad is named by file and line.

A text file is a document, or several where it is long: it is then cut at a blank line. A record of
JSON lines or parquet is prose in the field "text" (or another), or a conversation in "messages".
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any, cast

from dsv4.data.document import Document
from dsv4.data.errors import DataError
from dsv4.files import open_regular
from dsv4.protocol import ProtocolError, validate
from dsv4.protocol.segments import half_reason, is_unicode, unicode_text

TEXT = (".txt", ".md", ".rst", ".text", ".py")
LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
MESSAGES = "messages"
LONG = 1 << 20  # letters from which on a text file is cut at its next blank line
LONGEST_LINE = 1 << 26  # bytes
ROWS = 256  # of a parquet file that are decoded together
BOM = "\ufeff"

OnBad = Callable[[DataError], None]


def files_of(patterns: Iterable[str | Path]) -> list[Path]:
    """The files that paths, folders (all that can be read inside) and globs name, each once.

    Raises: DataError for a pattern that names none.
    """
    found: dict[Path, None] = {}
    for pattern in (str(Path(pattern).expanduser()) for pattern in patterns):
        path = Path(pattern)
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file)]
        elif path.exists() or not has_magic(pattern):
            inside = [path]
        else:
            inside = [Path(name) for name in sorted(glob(pattern, recursive=True))]  # noqa: PTH207 absolute too
        if not inside or not inside[0].exists():
            kinds = ", ".join((*TEXT, *LINES, *PARQUET))
            raise DataError(f"{pattern} names no file: give files or folders of {kinds}")
        found |= dict.fromkeys(inside)
    return list(found)


def read(
    files: Iterable[Path], *, field: str = "text", on_bad: OnBad | None = None
) -> Iterator[Document]:
    """The documents of some files. `field` holds the prose of a record.

    Raises: DataError at the first bad line; with `on_bad` it is told instead, and left out.
    """
    for file in files:
        kind = _kind(file)
        if kind is None:
            kinds = ", ".join((*TEXT, *LINES, *PARQUET))
            raise DataError(f"{file} is of no kind that can be read: {kinds}, or one of them .gz")
        yield from kind(file, field, on_bad or _raise)


def read_text(file: Path, _: str, on_bad: OnBad) -> Iterator[Document]:
    """A file as one document, or several that begin after a blank line."""
    lines: list[str] = []
    size, first = 0, 1
    for number, line in _lines(file, on_bad):
        lines.append(line)
        size += len(line)
        if size >= LONG and (not line.strip() or size >= 2 * LONG):
            yield Document("".join(lines), where=f"{file}:{first}")
            lines, size, first = [], 0, number + 1
    if "".join(lines).strip():
        yield Document("".join(lines), where=f"{file}:{first}")


def read_lines(file: Path, field: str, on_bad: OnBad) -> Iterator[Document]:
    """A document of every line that is not blank and says something."""
    for number, line in _lines(file, on_bad):
        if not line.strip():
            continue
        try:
            document = document_of(_parsed(line), field, f"{file}:{number}")
        except DataError as error:
            on_bad(_placed(error, f"{file}:{number}"))
            continue
        if document:
            yield document


def read_parquet(file: Path, field: str, on_bad: OnBad) -> Iterator[Document]:
    """A document of every row. Needs pyarrow."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{file} needs pyarrow: pip install 'dsv4[data]'") from error
    try:
        with open_regular(file) as stream, ParquetFile(stream) as rows:
            names = [name for name in (field, MESSAGES) if name in rows.schema_arrow.names]
            number = 0
            for batch in rows.iter_batches(ROWS, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    try:
                        document = document_of(_without_nulls(row), field, f"{file}:row {number}")
                    except DataError as error:
                        on_bad(error)
                        continue
                    if document:
                        yield document
    except (OSError, ValueError, ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read: {error}") from error


def document_of(record: Any, field: str, where: str) -> Document:
    """The document of a record. Raises DataError that begins with `where`."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: must be an object with {field!r} or {MESSAGES!r}")
    if isinstance(record.get(field), str):
        if not is_unicode(record[field]):
            raise DataError(f"{where}: {half_reason(record[field])}")
        return Document(record[field], where=where)
    if record.get(field) is not None:
        raise DataError(f"{where}: {field} = {str(record[field])[:40]!r}: must be text")
    if MESSAGES not in record:
        names = ", ".join(map(repr, list(record)[:8])) or "nothing"
        raise DataError(f"{where}: has neither {field!r} nor {MESSAGES!r} but {names}")
    try:
        messages = tuple(validate(record[MESSAGES]))
        document = Document(messages=messages, where=where)
        for text, _ in document.segments():
            unicode_text(text)
    except ProtocolError as error:
        raise DataError(f"{where}: {error}") from error
    return document


Kind = Callable[[Path, str, OnBad], Iterator[Document]]


def _kind(file: Path) -> Kind | None:
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix in PARQUET and not file.name.endswith(".gz"):
        return read_parquet
    return read_lines if suffix in LINES else read_text if suffix in TEXT else None


def _raise(error: DataError) -> None:
    raise error


def _placed(error: DataError, where: str) -> DataError:
    return error if str(error).startswith(where) else DataError(f"{where}: {error}")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError as error:
        raise DataError("nested too deeply to be read") from error
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from error


def _without_nulls(value: Any) -> Any:
    """Columns that a row leaves out are null in parquet, and absent in JSON."""
    if isinstance(value, dict):
        return {name: _without_nulls(own) for name, own in value.items() if own is not None}
    return [_without_nulls(own) for own in value] if isinstance(value, list) else value


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    with open_regular(file) as stream:
        if file.name.endswith(".gz"):
            with gzip.open(stream) as inner:
                yield cast(IO[bytes], inner)
        else:
            yield stream


def _lines(file: Path, on_bad: OnBad) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from 1; UTF-8, with or without a byte-order mark."""
    try:
        with _opened(file) as stream:
            number = 0
            while raw := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(raw) > LONGEST_LINE:
                    raise DataError(f"{file}:{number}: longer than {LONGEST_LINE:,} bytes")
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    on_bad(DataError(f"{file}:{number}: not UTF-8: {error.reason}"))
                    continue
                yield number, line.removeprefix(BOM) if number == 1 else line
    except (OSError, EOFError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from error
