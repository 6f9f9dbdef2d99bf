"""One server behind a front: whether it lives, what it can do, and what runs there.

    out ── probed every `period` ──▶ live ── refused or lost connection, /health 5xx ──▶ out
                                          ── MISSES health checks without an answer ──▶ out

Whatever runs at a server that is found out is told at once, and goes on elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import httpx

from dsv4.engine.request import BackendState
from dsv4.remote.http import reason, shown
from dsv4.remote.probe import UnableError, probe
from dsv4.remote.wire import Able
from dsv4.tokenizer import Tokenizer

log = logging.getLogger("dsv4.remote")

MISSES = 3
PATIENCE = 5.0  # seconds for a health check
FOUND = 60.0  # seconds for the first completion: a busy server reads other prompts before


class Backend:
    """`able` is None while it is out, and `why` says why. `reading`: tokens of prompts whose
    replies have not begun; `context` is what it last said."""

    def __init__(self, number: int, url: str, client: httpx.AsyncClient, tokenizer: Tokenizer):
        self.number, self.url = number, url
        self._client, self._tokenizer = client, tokenizer
        self.able: Able | None = None
        self.why = "it was not asked yet"
        self.context: int | None = None
        self.streams: set[asyncio.Task[None]] = set()
        self.reading = self.requests = self.failures = 0
        self._missed = 0
        self.asked, self._doubted = asyncio.Event(), asyncio.Event()

    def state(self) -> BackendState:
        """What others are told of it."""
        return BackendState(
            shown(self.url),
            self.able is not None,
            self.why,
            len(self.streams),
            self.requests,
            self.failures,
        )

    async def watch(self, period: float, lost: Callable[[Backend], None]) -> None:
        """Ask again and again; `lost` hears that it was found out."""
        while True:
            if self.able is None:
                await self._find()
            else:
                await self._check(lost)
            self.asked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._doubted.wait()
            self._doubted.clear()

    def doubt(self) -> None:
        """Something broke off there: check it at once."""
        self._doubted.set()

    def out(self, why: str) -> None:
        """It does not answer: what runs there has ended."""
        if self.able is not None:
            log.warning("%s", why)
        self.able, self.why, self._missed = None, why, 0
        for stream in self.streams:
            stream.cancel()

    async def _find(self) -> None:
        try:
            async with asyncio.timeout(FOUND):
                self.able = await probe(self._client, self.url, self._tokenizer)
        except UnableError as error:
            self.why = f"{shown(self.url)} cannot be used: {error}"
        except (httpx.HTTPError, TimeoutError) as error:
            self.why = reason(error, self.url)
        except Exception as error:  # whatever a stranger answers must not end the watch
            log.exception("a backend could not be asked")
            self.why = f"{shown(self.url)} cannot be used: {error}"
        else:
            self.why, self.context = "", self.able.context or self.context
            log.info("%s is live", shown(self.url))

    async def _check(self, lost: Callable[[Backend], None]) -> None:
        why = ""
        try:
            response = await self._client.get(f"{self.url}/health", timeout=PATIENCE)
            if response.status_code >= 500:
                why = f"{shown(self.url)} says at /health that it cannot answer"
        except httpx.TimeoutException as error:
            self._missed += 1
            why = reason(error, self.url) if self._missed >= MISSES else ""
        except httpx.HTTPError as error:
            why = reason(error, self.url)
        else:
            self._missed = 0
        if why and self.able is not None:
            self.out(why)
            lost(self)
