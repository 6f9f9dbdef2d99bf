"""Clients of a completions endpoint that cost little: streams are timed, not parsed.

They share the processor with the server that they measure, so a reply's events are searched for
two marks (the first event, the last one) as bytes; its last events are read as JSON, for the usage.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

LAST = b"data: [DONE]"
END = b"\r\n0\r\n\r\n"  # of a body in chunks


@dataclass(frozen=True)
class Heard:
    """One reply: seconds until its first event and until its end, and its tokens."""

    first: float
    whole: float
    prompt_tokens: int
    tokens: int


class Exchange(asyncio.Protocol):
    """One request over a connection of its own (llama.cpp closes it after a stream)."""

    def __init__(self, request: bytes):
        self._request, self._tail, self._first = request, b"", 0.0
        self.ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Keep the end of what came, and when the first event did."""
        self._tail = (self._tail + data)[-4096:]
        if not self._first and b"data: " in self._tail:
            self._first = time.perf_counter()
        if self._tail.endswith(END) or (b"HTTP/1.1 " in data and b"HTTP/1.1 200" not in data):
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """The end, if it was not seen."""
        self._end(error or ConnectionError("the server closed the connection"))

    def heard(self, began: float) -> Heard:
        """The reply. Raises RuntimeError for one that is no whole stream."""
        if LAST not in self._tail:
            raise RuntimeError(f"no whole stream: {self._tail[-500:]!r}")
        usage, ended = _usage(self._tail), self.ended.result()
        tokens = usage["prompt_tokens"], usage["completion_tokens"]
        return Heard(self._first - began, ended - began, *tokens)

    def _end(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(time.perf_counter())
        else:
            self.ended.set_exception(error)
        self._transport.close()


def _usage(tail: bytes) -> dict[str, Any]:
    """The usage in the last events of a stream."""
    for line in reversed(tail.splitlines()):
        if line.startswith(b"data: {") and line.endswith(b"}"):
            usage = json.loads(line[6:]).get("usage")
            if usage:
                found: dict[str, Any] = usage
                return found
    raise RuntimeError(f"a stream without its usage: {tail[-500:]!r}")


async def run(port: int, bodies: Sequence[Sequence[bytes]]) -> tuple[float, list[Heard]]:
    """Clients that send at once, each its bodies one after another: seconds in all, and replies."""
    loop = asyncio.get_running_loop()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()

    async def ask(body: bytes) -> Heard:
        request = head + str(len(body)).encode() + b"\r\n\r\n" + body
        began = time.perf_counter()
        _, exchange = await loop.create_connection(partial(Exchange, request), "127.0.0.1", port)
        await exchange.ended
        return exchange.heard(began)

    async def client(mine: Sequence[bytes]) -> list[Heard]:
        return [await ask(body) for body in mine]

    began = time.perf_counter()
    heard = await asyncio.gather(*map(client, bodies))
    return time.perf_counter() - began, [one for mine in heard for one in mine]
