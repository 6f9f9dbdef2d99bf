"""Ctrl-C as a request: work that must not be cut in the middle asks between its steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Interrupted(Exception):  # noqa: N818 it was asked for
    """Work was asked to stop, and did so between two steps."""


@contextmanager
def interruptible(notice: str = "") -> Iterator[list[bool]]:
    """While open, the first Ctrl-C fills the list (and prints `notice`); a second one raises
    KeyboardInterrupt. Outside the main thread, and where Ctrl-C is ignored, nothing is changed.
    """
    asked: list[bool] = []
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        with suppress(OSError):
            os.write(2, notice.encode())

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
