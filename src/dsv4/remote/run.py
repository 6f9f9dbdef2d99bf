"""One job on its way through the backends: what it has heard so far."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from dsv4.engine.request import Finished, FinishReason, Job, Listener, RemoteError, Token, Usage
from dsv4.remote.backend import Backend
from dsv4.remote.wire import Heard


class Run:
    """`said`: the ids that its listener has; `tried`: backends that lost or refused it, of which
    `why` says the last; `unread`: prompt tokens that its backend still reads; `stopped`: its
    listener said that the reply is over; `guessed`: its ids are those of a text."""

    def __init__(self, job: Job, listener: Listener, loop: asyncio.AbstractEventLoop):
        self.job, self.listener, self._loop = job, listener, loop
        self.said: list[int] = []
        self.usage = Usage(prompt=len(job.ids))
        self.tried: set[Backend] = set()
        self.why: RemoteError | None = None
        self.end: FinishReason | None = None
        self.begun = self.cancelled = self.stopped = self.guessed = False
        self.unread = 0
        self.task: asyncio.Task[None] | None = None

    def begin(
        self,
        serve: Callable[[Run], Coroutine[Any, Any, None]],
        ended: Callable[[Run, Finished], None],
    ) -> None:
        """In the loop: serve it, and tell of its end."""

        def done(task: asyncio.Task[None]) -> None:  # also of one that never took a step
            error = None if task.cancelled() else task.exception()
            if task.cancelled():
                end = Finished("cancelled", self.usage)
            elif isinstance(error, Exception):
                end = Finished("error", self.usage, error)
            else:
                end = Finished(self.end or "stop", self.usage)
            ended(self, end)

        self.task = self._loop.create_task(serve(self))
        self.task.add_done_callback(done)
        if self.cancelled:
            self.task.cancel()

    def cancel(self) -> None:
        """See `Handle`; from any thread."""
        self.cancelled = True
        with suppress(RuntimeError):  # the loop may be closed
            self._loop.call_soon_threadsafe(lambda: self.task and self.task.cancel())

    def account(self, heard: Heard) -> None:
        """What its backend counts; of a reply that went on elsewhere, what the first said."""
        if heard.first:
            self.usage.cached = min(heard.cached, self.usage.prompt)
            self.usage.missed = heard.missed
            self.usage.drafted, self.usage.accepted = heard.drafted, heard.accepted

    def tell(self, tokens: Sequence[Token], prompt: Sequence[Token]) -> bool:
        """New tokens, and before the first that the prompt was read; is the reply over?"""
        if not self.begun:
            self.begun = True
            self.listener.prefilled(self.usage, prompt)
        self.said += [token.id for token in tokens]
        self.usage.completion += len(tokens)
        return bool(tokens) and self.listener.tokens(tokens)
