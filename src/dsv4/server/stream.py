"""Server-sent events of one exchange, while its client stays and reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dsv4.server.errors import ApiError
from dsv4.server.reply import Update
from dsv4.server.service import Answer
from dsv4.server.writer import Event, sse

log = logging.getLogger("dsv4.server")

COMMENT = b": keep-alive\n\n"
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


async def pieces(answer: Answer, quiet: float) -> AsyncIterator[bytes]:
    """The bytes of the stream. A failure is its last event."""
    writer, begun = answer.writer, False
    held: list[tuple[int, Update, bool]] = []  # until all prompts are read
    try:
        async for item in answer.exchange.updates(quiet):
            if item is None:
                yield COMMENT
                continue
            held.append(item)
            events: list[Event] = []
            if not begun and all(r.usage is not None for r in answer.exchange.replies):
                begun = True
                events += writer.start()
            if begun:
                for number, update, over in held:
                    events += writer.add(number, update, over)
                held.clear()
            if events:
                yield sse(events)
        events = list(writer.finish())
        answer.done()
        yield sse(events) + writer.last
    except ApiError as error:
        yield sse(writer.fail(error))
    except Exception as error:
        log.exception("a stream failed")
        yield sse(writer.fail(ApiError(500, f"the server failed: {error}")))


class Patience:
    """Raises TimeoutError once a step of a block has taken `seconds`: one timer for all its steps,
    which costs less than one for each."""

    def __init__(self, seconds: float):
        self._seconds, self._loop = seconds, asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._since: float | None = None  # when the step began; nothing between two

    def begin(self) -> None:
        """A step begins."""
        self._since = self._loop.time()

    def end(self) -> None:
        """It is done."""
        self._since = None

    async def __aenter__(self) -> Patience:
        await self._limit.__aenter__()
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    async def __aexit__(self, *raised: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*raised)

    def _look(self) -> None:
        """Ends the block, or looks again when the step that runs, or would begin now, is over."""
        now = self._loop.time()
        if self._since is not None and now >= self._since + self._seconds:
            self._limit.reschedule(now)
            return
        until = (now if self._since is None else self._since) + self._seconds
        self._timer = self._loop.call_at(until, self._look)


class EventStream(Response):
    """Sends pieces until they end, the client leaves, or leaves one unread for `patience`."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], patience: float, left: Callable[[], None]):
        self.status_code, self.background = 200, None
        self._content, self._patience, self._left = content, patience, left
        self.init_headers(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; `left` is told at the end, whatever it was."""
        try:
            await until_gone(receive, self._send(send))
        finally:
            self._left()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with Patience(self._patience) as patience:
            async for piece in self._content:
                patience.begin()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                patience.end()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_gone(receive: Receive, work: Awaitable[None]) -> bool:
    """Do the work while the client is there; whether it was done."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        for task in (working, leaving):
            task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def collect(answer: Answer, request: Request) -> bool:
    """Wait for the whole reply; False if the client left first. Raises ApiError."""

    async def work() -> None:
        updates: dict[int, Update] = {}
        async for item in answer.exchange.updates(60.0):
            if item is None:
                continue
            number, update, _ = item
            if number in updates:
                updates[number].deltas.extend(update.deltas)
                updates[number].spoken.extend(update.spoken)
            else:
                updates[number] = update
        for _ in answer.writer.start():
            pass
        for number, update in sorted(updates.items()):
            for _ in answer.writer.add(number, update, True):
                pass
        for _ in answer.writer.finish():
            pass
        answer.done()

    return await until_gone(request.receive, work())
