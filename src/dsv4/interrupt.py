"""Ctrl-C as a request: work that must not be cut in the middle asks between its steps.

`kill`, a scheduler, torchrun and a terminal that is closed ask by other signals: see ENDING.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

CTRL_C = (signal.SIGINT,)
# all that ask a process to end, as far as the system has them
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in dir(signal)
)


class Interrupted(Exception):  # noqa: N818 it was asked for
    """Work was asked to stop, and did so between two steps."""


class Ended(KeyboardInterrupt):
    """A signal of ENDING; `number` is its."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def exit_code(error: KeyboardInterrupt | int = signal.SIGINT) -> int:
    """What a process that a signal ended returns by convention: 128 and its number."""
    number = error if isinstance(error, int) else getattr(error, "number", signal.SIGINT)
    return 128 + int(number)


@contextmanager
def interruptible(
    notice: str = "", signals: Sequence[int] = CTRL_C, *, patient: bool = False
) -> Iterator[list[int]]:
    """While open, the first of `signals` fills the list with its number (and prints `notice`); a
    second one raises Ended, or, if `patient`, does nothing: where several processes are asked to
    end, each may be told twice. Outside the main thread nothing is changed, nor for signals that
    are ignored.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked and not patient:
            raise Ended(number)
        if not asked:
            asked.append(number)
            with suppress(OSError):
                os.write(2, notice.encode())

    with _handled(signals, ask):
        yield asked


@contextmanager
def ending() -> Iterator[None]:
    """While open, signals of ENDING raise Ended as Ctrl-C raises KeyboardInterrupt."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    with _handled(ENDING, end):
        yield


@contextmanager
def _handled(
    signals: Sequence[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)
