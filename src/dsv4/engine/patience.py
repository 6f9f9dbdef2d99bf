"""Calls into a library that may take for ever: they run in threads that are left behind.

A thread cannot be stopped from outside, so what was given up goes on until it ends by itself, and
no more than `left` of these are borne: from then on calls are refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Patience:
    """Threads for calls that are waited for as long as the caller says, and not longer."""

    def __init__(self, left: int):
        self.left = left
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []  # those that were left behind

    def check(self) -> None:
        """Raises ValueError if too many calls that were given up are still going on."""
        self._busy = [worker for worker in self._busy if worker.thread.is_alive()]
        if len(self._busy) >= self.left:
            raise ValueError(f"{len(self._busy)} grammars are still being worked on: try later")

    def run(
        self, call: Callable[[], T], seconds: float, more: Callable[[], float] = lambda: 0.0
    ) -> tuple[T, float]:
        """What `call` gives, and the seconds of a processor that it took; raises what it raises,
        and TimeoutError, unless `more` seconds are granted when they are over."""
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker()
        worker.calls.put(call)
        while True:
            try:
                value, error, spent = worker.answers.get(timeout=max(seconds, 0))
                break
            except Empty:
                seconds = more()
            if seconds <= 0:
                worker.calls.put(None)
                self._busy.append(worker)
                raise TimeoutError
        self._idle.append(worker)
        if error is not None:
            raise error
        return value, spent


class _Worker:
    """A thread that answers one call after another until it is given None."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.answers: SimpleQueue[tuple[Any, Exception | None, float]] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="grammar", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (call := self.calls.get()) is not None:
            began = time.thread_time()
            try:
                value, error = call(), None
            except Exception as raised:
                value, error = None, raised
            self.answers.put((value, error, time.thread_time() - began))
            del call, value, error  # nothing of it is kept while waiting
