"""An engine whose work is done elsewhere: jobs go to servers, and what they say comes back.

A job that finds no backend, or is lost before its first token, is asked of the next one. One that
is lost in mid-reply goes on elsewhere from the ids that it has, where that gives the same reply
(see `resumable`), and fails otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import httpx

from dsv4.engine.request import (
    BackendState,
    EngineError,
    Finished,
    FullError,
    Job,
    Listener,
    RemoteError,
    Token,
)
from dsv4.remote.affinity import Affinity, Load, chain_of
from dsv4.remote.backend import Backend
from dsv4.remote.http import Events, headers, is_loopback, reason, refusal, retry_after
from dsv4.remote.run import Run
from dsv4.remote.wire import Able, Heard, LostError, RefusedError, body_of, ends_of, resumable
from dsv4.tokenizer import Tokenizer

log = logging.getLogger("dsv4.remote")

MOST_TRIES = 3  # of one job: what ends every server that it meets must not meet them all
CONNECT = 5.0  # seconds
LINGER = 1.0  # seconds that a server has for its last word on a reply that is over
FULL = (429, 503)
GONE = (401, 403, 404)  # another key, or another model, than when it was asked
TOTALS = ("prompt_tokens", "cached_tokens", "generated_tokens", "finished", "failed", "resumed")
WRONG = range(400, 500)


class RemoteEngine:
    """See `EngineLike`. `urls`: servers of one model, whose `tokenizer` is given.

    `context`: tokens of a sequence, less where a server says so. `key`: theirs. `timeout`: seconds
    that a stream may be silent. `period`: seconds between two health checks. Raises AddressError.
    """

    def __init__(
        self,
        urls: Sequence[str],
        tokenizer: Tokenizer,
        *,
        context: int = 1 << 20,
        key: str | None = None,
        queue: int = 1024,
        timeout: float = 600.0,
        period: float = 2.0,
    ):
        self._tokenizer, self._context, self._queue = tokenizer, context, queue
        self._affinity = Affinity()
        self._totals = dict.fromkeys(TOTALS, 0)
        self._runs: set[Run] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        times = httpx.Timeout(timeout, connect=CONNECT)
        self._clients = {  # a proxy of the environment is no way to this machine
            local: httpx.AsyncClient(
                headers=headers(key), limits=limits, timeout=times, trust_env=not local
            )
            for local in {is_loopback(url) for url in urls}
        }
        self._backends = [
            Backend(number, url, self._clients[is_loopback(url)], tokenizer)
            for number, url in enumerate(urls)
        ]
        self._thread = threading.Thread(target=self._work, name="dsv4-remote", daemon=True)
        self._thread.start()
        for backend in self._backends:
            self._soon(backend.watch(period, lambda lost: self._affinity.forget(lost.number)))

    # ---- what others call ------------------------------------------------------------------

    @property
    def context(self) -> int:
        """Tokens that a sequence can have at every backend."""
        return min([self._context, *(b.context for b in self._backends if b.context is not None)])

    @property
    def model(self) -> str | None:
        """What the first live backend calls the model."""
        return next((b.able.model for b in self._backends if b.able is not None), None)

    def wait(self, seconds: float) -> None:
        """Until each backend was asked once, or that long."""

        async def asked() -> None:
            await asyncio.gather(*(backend.asked.wait() for backend in self._backends))

        with contextlib.suppress(TimeoutError):
            self._soon(asked()).result(seconds)

    def submit(self, job: Job, listener: Listener) -> Run:
        """Ask for a job. Raises as `EngineLike` says, and RemoteError where no backend lives."""
        if not job.ids:
            raise ValueError("a prompt has no tokens: give it some text")
        if len(job.ids) >= self.context:
            raise ValueError(
                f"This model's maximum context length is {self.context} tokens. However, your "
                f"prompt has {len(job.ids)} tokens. Please reduce the length of the prompt."
            )
        if not any(backend.able for backend in self._backends):
            raise self._none_lives()
        run = Run(job, listener, self._loop)
        with self._lock:
            if self._closing:
                raise EngineError("the server is shutting down: it takes no more requests")
            if len(self._runs) >= self._queue:
                raise FullError(f"{len(self._runs)} requests run already: try again later", 2.0)
            self._runs.add(run)
        self._loop.call_soon_threadsafe(run.begin, self._serve, self._ended)
        return run

    def statistics(self) -> Mapping[str, float]:
        """Numbers for metrics."""
        runs = list(self._runs)
        told = sum(run.begun for run in runs)
        live = sum(backend.able is not None for backend in self._backends)
        return {
            "running": told,
            "waiting": len(runs) - told,
            "backends": len(self._backends),
            "backends_live": live,
            **self.totals(),
        }

    def totals(self) -> Mapping[str, float]:
        """Counts since the start."""
        return dict(self._totals)

    def backends(self) -> Sequence[BackendState]:
        """How each of them is."""
        return [backend.state() for backend in self._backends]

    def close(self, seconds: float = 30.0) -> None:
        """Take no more jobs, let those that run finish for `seconds`, then cancel the rest."""
        with self._lock:
            self._closing = True
        if not self._thread.is_alive():
            return
        self._soon(self._finish(seconds)).result(seconds + 30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ---- the loop --------------------------------------------------------------------------

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _soon(self, work):  # type: ignore[no-untyped-def]  # a coroutine of any result
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _finish(self, seconds: float) -> None:
        tasks = [run.task for run in list(self._runs) if run.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        own = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not own]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()

    def _none_lives(self) -> RemoteError:
        return RemoteError(
            f"no backend can answer now ({len(self._backends)} of {len(self._backends)} are out)"
            ": try again later",
            503,
            5.0,
        )

    def _choose(self, run: Run) -> Backend:
        """Where a job goes next. Raises RemoteError where it can go nowhere."""
        open_ = [b for b in self._backends if b.able is not None and b not in run.tried]
        if run.said or run.job.said:
            sure = not run.guessed
            open_ = [b for b in open_ if sure and b.able and resumable(run.job, b.able)]
        if not open_ or len(run.tried) >= MOST_TRIES:
            if run.job.said and any(b.able for b in self._backends):
                raise RemoteError("no backend goes on with a reply that another began", 400)
            raise run.why or self._none_lives()
        loads = [Load(b.number, b.reading, len(b.streams)) for b in open_]
        ids = [*run.job.ids, *run.said]
        chain = chain_of(ids)
        chosen = self._backends[self._affinity.choose(ids, chain, loads)]
        run.unread = len(ids) - self._affinity.known(chain, chosen.number)
        self._affinity.learn(chain, chosen.number)
        return chosen

    def _ended(self, run: Run, end: Finished) -> None:
        """The last word on a job."""
        with self._lock:
            self._runs.discard(run)
        usage = end.usage
        totals = self._totals
        totals["failed" if end.reason == "error" else "finished"] += 1
        totals["prompt_tokens"] += usage.prompt
        totals["cached_tokens"] += usage.cached
        try:
            run.listener.finished(end)
        except Exception:
            log.exception("a listener failed at its end")

    async def _serve(self, run: Run) -> None:
        """Ask one backend after the other, until the reply is over. Raises RemoteError."""
        while True:
            backend = self._choose(run)
            self._totals["resumed"] += bool(run.said)
            try:
                await self._at(backend, run)
                self._affinity.learn(chain_of([*run.job.ids, *run.said]), backend.number)
                return
            except httpx.HTTPError as error:
                why = reason(error, backend.url)
                if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    backend.out(why)
                    self._affinity.forget(backend.number)
                backend.doubt()
                self._lost(run, backend, why)
            except LostError as error:
                self._lost(run, backend, f"{backend.state().url} failed: {error}")
            except RefusedError as error:
                self._refused(run, backend, error)

    def _lost(self, run: Run, backend: Backend, why: str) -> None:
        log.warning("%s, with a request", why)
        backend.failures += 1
        run.tried.add(backend)
        where = "in the middle of the reply" if run.said else "before the reply"
        run.why = RemoteError(
            f"the backend was lost {where}, and no other can go on: ask again", 503, 1.0
        )

    def _refused(self, run: Run, backend: Backend, error: RefusedError) -> None:
        run.tried.add(backend)
        if error.status in FULL:
            run.why = RemoteError(
                f"no backend takes the request now: {error}", error.status, error.retry_after
            )
        elif error.status in GONE:
            backend.out(f"{backend.state().url} cannot be used: it answers {error}")
            run.why = self._none_lives()
        elif error.status in WRONG and run.job.grammar is not None and not run.job.binding:
            log.warning("%s does not take a grammar: %s", backend.state().url, error)
            run.job = replace(run.job, grammar=None)
            run.tried.discard(backend)
        elif error.status in WRONG:
            raise RemoteError(f"the backend refuses the request: {error}", 400)
        else:
            backend.failures += 1
            run.why = RemoteError(f"the backend failed: {error}", 500)

    async def _at(self, backend: Backend, run: Run) -> None:
        """The stream of one backend, in a task that the backend ends when it is found out."""
        able = backend.able
        assert able is not None
        stream = asyncio.ensure_future(self._stream(backend, able, run))
        backend.streams.add(stream)
        backend.requests += 1
        backend.reading += run.unread
        try:
            await stream
        except asyncio.CancelledError:
            if run.cancelled or self._closing or backend.able is not None:
                raise
            if run.end is None:
                raise LostError("it is out") from None
        except (httpx.HTTPError, LostError, RemoteError):
            if run.end is None:  # else only its last word is missing
                raise
        finally:
            backend.streams.discard(stream)
            backend.reading -= run.unread
            run.unread = 0

    async def _stream(self, backend: Backend, able: Able, run: Run) -> None:
        body = body_of(run.job, able, run.said, self._tokenizer)
        heard = Heard(run.job, able, self._tokenizer, first=not run.begun)
        client, events = self._clients[is_loopback(backend.url)], Events()
        over = asyncio.timeout(None)
        try:
            async with (
                over,
                client.stream("POST", f"{backend.url}/v1/completions", json=body) as response,
            ):
                if not response.is_success:
                    await response.aread()
                    after = retry_after(response)
                    raise RefusedError(refusal(response), response.status_code, after)
                async for data in response.aiter_bytes():
                    for event in events.feed(data):
                        tokens = heard.read(event)
                        run.account(heard)
                        if tokens and run.end is None:
                            self._say(backend, run, tokens, heard)
                    if (run.end is not None or heard.done) and over.when() is None:
                        # what it counts may still come
                        over.reschedule(self._loop.time() + LINGER * (not run.stopped))
        except TimeoutError:
            pass
        if run.end is None and not heard.finish:
            raise LostError("the stream ended before the reply did")
        run.tell((), heard.prompt)
        run.end = run.end or ("length" if heard.finish == "length" else "stop")

    def _say(self, backend: Backend, run: Run, tokens: list[Token], heard: Heard) -> None:
        """Tell new tokens, and see whether the reply is over, whatever the server thinks."""
        backend.reading -= run.unread
        run.unread = 0
        counted = heard.able.gives_ids  # else they are more or fewer than the server's
        run.guessed = run.guessed or not counted
        most = run.job.sampling.max_tokens
        kept = tokens[: most - len(run.said)] if counted else tokens
        ends = ends_of(run.job, self._tokenizer)
        last = next((place for place, token in enumerate(kept) if token.id in ends), None)
        if last is not None:
            kept = kept[: last + 1]
        self._totals["generated_tokens"] += len(kept)
        run.stopped = run.tell(kept, heard.prompt)
        if run.stopped or last is not None:
            run.end = "stop"
        elif counted and len(run.said) >= most:
            run.end = "length"
