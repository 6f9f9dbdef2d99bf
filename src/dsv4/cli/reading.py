"""A line that says how far a long prompt is read: rewritten at a terminal, told in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dsv4.cli.streams import note

PATIENCE = 1.0  # seconds without a word
PERIODS = {True: 0.2, False: 10.0}  # seconds between two lines, at a terminal and in a pipe


class Reading:
    """Call it as the prompt is read; `end` takes the line away, whatever happened."""

    def __init__(self) -> None:
        self._begun = self._shown = time.monotonic()
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._width = 0  # of what stands there

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` tokens are read."""
        now = time.monotonic()
        if now < self._begun + PATIENCE or now < self._shown + PERIODS[self._terminal]:
            return
        self._shown = now
        text = line(done, total, now - self._begun)
        if not self._terminal:
            note(text)
            return
        self._rewrite(text.ljust(self._width))
        self._width = len(text)

    def end(self) -> None:
        """Leave the terminal's line empty."""
        if self._width:
            self._rewrite(" " * self._width)
            self._width = 0

    @staticmethod
    def _rewrite(text: str) -> None:  # whose control characters are ours
        with suppress(OSError):
            sys.stderr.write(f"\r{text}\r")
            sys.stderr.flush()


@contextmanager
def closing_line() -> Iterator[Reading]:
    """A line that is gone when the work is over, done or not."""
    reading = Reading()
    try:
        yield reading
    finally:
        reading.end()


def line(done: int, total: int, seconds: float) -> str:
    """`reading the prompt: 65,536 of 1,000,000 tokens, 9,000 tokens/s, 1:43 left`."""
    rate = done / max(seconds, 1e-9)
    left = round((total - done) / rate) if rate else 0
    return (
        f"reading the prompt: {done:,} of {total:,} tokens, {rate:,.0f} tokens/s, "
        f"{left // 60}:{left % 60:02} left"
    )
