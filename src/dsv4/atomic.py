"""A file appears whole or not at all: written beside its place, forced to disk, then moved."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class WriteError(OSError):
    """A file that could not be written: the message names it, the reason and what is kept."""


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `file` when the block is left without an error.

    Otherwise nothing of it is left, and a `file` that was there before is untouched.
    Raises: WriteError for what the system refuses (no space, no permission, a folder in its place).
    """
    try:
        with whole(file) as stream:
            yield stream
    except OSError as error:
        raise write_error(file, error) from error


@contextmanager
def whole(file: Path) -> Iterator[BinaryIO]:
    """The same for one file of many, whose writer says itself what a refusal means: OSError."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a process that was killed
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
        sync_folder(file.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def discard(path: Path) -> None:
    """Remove a file or a folder with all that it holds. A folder loses its name first: killed in
    the middle, this leaves `.NAME.removing`, and never half of what was there under its name."""
    gone = path if path.name.startswith(".") else path.with_name(f".{path.name}.removing")
    try:
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        if gone != path:
            shutil.rmtree(gone, ignore_errors=True)  # of a process that was killed
            path.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise OSError(f"{path} could not be removed ({error.strerror or error})") from error


def write_error(file: Path, error: OSError) -> WriteError:
    """The same error in one line that names `file`."""
    reason = error.strerror or error
    return WriteError(f"{file} could not be written ({reason}); what was there before is kept")


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, where the system can: a move survives a power cut."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
