"""stdin, stdout and stderr of every command: UTF-8 whatever the locale.

Into a pipe or a file, text goes byte for byte. On a terminal its control characters are shown as
the pictures that Unicode has for them (␛): no text of a model or a file drives the terminal.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from dsv4.files import parse_json

EVERY = 5  # seconds between lines of progress
BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")

CONTROLS = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "␡"}
CONTROLS |= {
    code: f"\\x{code:02x}" for code in range(0x80, 0xA0)
}  # C1: 0x9b alone begins a command
ON_SCREEN = {code: shown for code, shown in CONTROLS.items() if chr(code) not in "\n\t"}


def prepare() -> None:
    """Make the standard streams speak UTF-8. Raises ValueError where stdout is closed."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 lives as long as the process
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="strict")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise ValueError("stdout is closed: leave it open, or redirect it to a file")


def visible(text: str) -> str:
    """One line of `text`: its control characters as pictures, bytes that are no UTF-8 as U+FFFD."""
    text = os.fsencode(text).decode("utf-8", "replace") if _has_raw_bytes(text) else text
    return text.translate(CONTROLS)


def argument(text: str, option: str) -> str:
    """The text of an option: UTF-8 where the locale knows ASCII only. Raises ValueError."""
    if not _has_raw_bytes(text):
        return text
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: not UTF-8") from error


def write(text: str, stream: TextIO | None = None, *, dim: bool = False) -> None:
    """Write `text` as it is, by default to stdout, and let it be seen at once."""
    stream = stream or sys.stdout
    try:
        shown = text.translate(ON_SCREEN) if stream.isatty() else text
        stream.write(f"\x1b[2m{shown}\x1b[0m" if dim and shown else shown)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "stdout" if stream is sys.stdout else "stderr"
        raise OSError(error.errno, error.strerror, name) from error


def say(line: str) -> None:
    """A line on stdout: a result."""
    write(line + "\n")


def note(line: str) -> None:
    """A line on stderr: what is not the result."""
    write(line + "\n", sys.stderr)


class Counting:
    """Documents and tokens that are made of a source, in a line every few seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.last = self.begun = time.monotonic()

    def __call__(self, name: str, documents: int, tokens: int) -> None:
        """So many are made."""
        now = time.monotonic()
        if now - self.last > EVERY:
            self.last = now
            self.say(
                f"{name}: {documents:,} documents, {tokens:,} tokens, {now - self.begun:.0f} s"
            )


def read_text(source: str) -> str:
    """The text of a file, or of stdin for -. Raises ValueError if it is no UTF-8."""
    name = "stdin" if source == "-" else source
    data = _stdin() if source == "-" else _file(source)
    if data.startswith(UTF16):
        raise ValueError(f"{name}: not UTF-8 but UTF-16: save it as UTF-8")
    try:
        return data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        at, value = error.start, data.removeprefix(BOM)[error.start]
        raise ValueError(f"{name}: not UTF-8: byte {at} is 0x{value:02x}") from error


def read_json(source: str) -> Any:
    """The value of a JSON file, or of stdin for -. Raises ValueError."""
    return parse_json(read_text(source), "stdin" if source == "-" else source)


def stdin() -> TextIO:
    """stdin. Raises ValueError where it is closed."""
    if sys.stdin is None:
        raise ValueError("stdin is closed: pipe the text in, or name a file")
    return sys.stdin


def _stdin() -> bytes:
    if stdin().isatty():
        note("reading stdin; Ctrl-D on a line of its own ends it")
    return stdin().buffer.read()


def _file(name: str) -> bytes:
    path = Path(name)
    if path.is_fifo() and path.parts[:2] not in (("/", "dev"), ("/", "proc")):
        raise ValueError(f"{name}: a named pipe, which may never be written: use - < {name}")
    return path.read_bytes()


def _has_raw_bytes(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)
