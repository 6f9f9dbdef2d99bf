"""The engine: a thread that admits jobs, reads their prompts in pieces, and steps them together.

One step: admit what fits → read a piece of the prompts, in turn → decode every sequence that is
read, one token each. A job's tokens depend on the job alone: logits do not depend on the batch, and
its k-th token is drawn with its k-th random number.

What a job raises fails that job. What the model raises fails every job, with the reason, and the
engine goes on with an empty pool.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dsv4.engine.constraint import Constraints
from dsv4.engine.disk import DiskStore
from dsv4.engine.memory import Plan
from dsv4.engine.pool import OutOfMemoryError, Pool
from dsv4.engine.prefix import Found, PrefixCache
from dsv4.engine.request import (
    EngineError,
    Finished,
    FinishReason,
    FullError,
    Job,
    Listener,
)
from dsv4.engine.running import Running
from dsv4.engine.sampler import Row, choose
from dsv4.engine.shelf import Shelf
from dsv4.model.cache import Cache
from dsv4.model.transformer import Transformer

log = logging.getLogger("dsv4.engine")


class Engine:
    """Continues many sequences at once on one model, whose CPU it takes.

    `slots` sequences run at once; `memory` bytes hold their state and what the prefix cache keeps
    (default: what `Plan` says). `queue` jobs may wait. `period`: tokens between states of the
    prefix cache (prefix.py), by default a page. `folder`: where prefixes are kept on disk, and how
    many bytes of them; `identity` tells models apart whose prefixes must not meet there.
    """

    def __init__(
        self,
        model: Transformer,
        constraints: Constraints | None = None,
        *,
        slots: int = 32,
        memory: int | None = None,
        queue: int = 1024,
        period: int | None = None,
        identity: bytes = b"",
        folder: str | os.PathLike[str] | None = None,
        folder_bytes: int = 8 << 30,
        folder_bytes_per_hour: int | None = None,
    ):
        self.model, self.constraints, self._queue = model, constraints, queue
        plan = Plan.of(model, slots, memory)
        self.pool = Pool(model.new_stores(plan.slots, plan.pages))
        size = self.pool.page_tokens
        config = model.config
        period = size if period is None else period
        # a piece ends where rings still hold the windows of every boundary in it
        self.piece = size * (config.sliding_window // size + 1)
        name = identity or hashlib.blake2b(repr(config).encode(), digest_size=16).digest()
        self._disk = None
        shelf = None
        if folder is not None:
            self._disk = DiskStore(
                Path(folder) / name.hex()[:32], limit=folder_bytes, per_hour=folder_bytes_per_hour
            )
            shelf = Shelf(self._disk, self.pool)
        self.prefix = PrefixCache(
            self.pool, name, period=period, state_bytes=plan.state_bytes, shelf=shelf
        )
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._changed = threading.Condition()
        self._closing: float | None = None  # when what still runs is cancelled
        self._ended = False
        self._turn = 0
        self._totals = dict.fromkeys(
            ("prompt_tokens", "cached_tokens", "generated_tokens", "finished", "failed"), 0
        )
        self._totals |= {"preempted": 0, "drafted_tokens": 0, "accepted_tokens": 0}
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._work, name="dsv4-engine", daemon=True)
        self._thread.start()

    # ---- what others call ------------------------------------------------------------------

    @property
    def context(self) -> int:
        """Tokens that a sequence can have."""
        pages = self.pool.stores.pages * self.pool.page_tokens
        return min(self.model.config.max_position_embeddings, pages)

    def submit(self, job: Job, listener: Listener) -> Running:
        """Queue a job: see `EngineLike`."""
        self._check(job)
        constraint = None
        if job.grammar is not None:
            if self.constraints is None:
                raise ValueError("a grammar needs the tokenizer: give the engine its constraints")
            constraint = self.constraints.constraint(job.grammar)
        ends = frozenset([self.model.config.eos_token_id] if job.end_ids is None else job.end_ids)
        running = Running(
            job, listener, Row(job, constraint), ends, next(self._numbers), self._wake
        )
        with self._changed:
            if self._closing is not None or self._ended:
                raise EngineError("the engine is shutting down: it takes no more requests")
            if len(self._waiting) >= self._queue:
                raise FullError(
                    f"{len(self._waiting)} requests wait already: try again later",
                    self._retry_after(),
                )
            self._waiting.append(running)
            self._changed.notify()
        return running

    def statistics(self) -> Mapping[str, float]:
        """Numbers for metrics; counters since the start, except the first five."""
        return {
            "running": len(self._running),
            "waiting": len(self._waiting),
            "free_slots": self.pool.free_slots,
            "free_pages": self.pool.free_pages,
            "pages": self.pool.stores.pages,
            "prefix_pages": self.prefix.held_pages,
            "prefix_state_bytes": self.prefix.held_bytes,
            "evicted_pages": self.prefix.counters.evicted_pages,
            **self._totals,
        }

    def close(self, seconds: float = 30.0) -> None:
        """Take no more jobs, let those that run finish for `seconds`, then cancel the rest."""
        with self._changed:
            if self._closing is None:
                self._closing = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds + 60)
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(0.0)

    # ---- admission -------------------------------------------------------------------------

    def _check(self, job: Job) -> None:
        vocab = self.model.config.vocab_size
        if not job.ids:
            raise ValueError("a prompt has no tokens: give it some text")
        low, high = min(job.ids), max(job.ids)
        if low < 0 or high >= vocab:
            raise ValueError(
                f"token id {low if low < 0 else high} is outside the vocabulary of {vocab}"
            )
        if len(job.ids) >= self.context:
            raise ValueError(
                f"This model's maximum context length is {self.context} tokens. However, your "
                f"prompt has {len(job.ids)} tokens. Please reduce the length of the prompt."
            )

    def _retry_after(self) -> float:
        return max(1.0, 0.1 * len(self._waiting))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _admit(self) -> None:
        """Open waiting jobs, in their order, while a slot and pages for the prompt are there.

        One whose prefix is being read just now waits for it, and lets others pass.
        """
        for running in list(self._waiting):
            if not self.pool.free_slots:
                return
            found = self.prefix.find(running.ids)
            if self._is_being_read(running, found.length):
                continue
            if not self._open(running, found):
                return
            self._waiting.remove(running)

    def _is_being_read(self, running: Running, known: int) -> bool:
        """Whether a sequence that reads its prompt will soon have more of this one's."""
        until = min(known + self.piece, len(running.ids) - 1)
        return known < until and any(
            other.pending > 1
            and other.state.length < len(other.job.ids)
            and other.ids[:until] == running.ids[:until]
            for other in self._running
        )

    def _open(self, running: Running, found: Found) -> bool:
        """Give a job what it needs to run; False if there is too little."""
        sequence = self.pool.open()
        try:
            self.prefix.reuse(sequence, found)
            more = self.pool.pages_for(len(running.ids) + 1) - len(sequence.pages)
            fits = self.pool.ensure(more) or not self._running
        except OutOfMemoryError:
            fits = False
        if not fits:
            self.pool.close(sequence)
            return False
        if not running.usage.prompt:  # else it was preempted
            running.usage.prompt = len(running.job.ids)
            running.usage.cached, running.usage.missed = found.length, found.missed
            self._totals["prompt_tokens"] += len(running.job.ids)
            self._totals["cached_tokens"] += found.length
        running.sequence = sequence
        self._running.append(running)
        return True

    # ---- the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._running and self._closing is None:
                    self._changed.wait()
                closing = self._closing
            if closing is not None and (
                time.monotonic() >= closing or not (self._waiting or self._running)
            ):
                break
            try:
                with torch.inference_mode():
                    self.step()
            except Exception as error:
                log.exception("the engine failed")
                self._fail_all(error)
        self._cancel_all()

    def step(self) -> None:
        """One step of all that run."""
        self._drop_cancelled()
        self._admit()
        pieces = self._pieces()
        if pieces:
            self._read(pieces)
        ready = [running for running in self._running if running.pending == 1]
        ready = [running for running in ready if not any(running is r for r, _ in pieces)]
        if ready:
            self._decode(ready)

    def _drop_cancelled(self) -> None:
        gone = [job for job in (*self._running, *list(self._waiting)) if job.cancelled]
        for running in gone:
            if running.sequence is None:
                self._waiting.remove(running)
            self._end(running, "cancelled")

    def _pieces(self) -> list[tuple[Running, int]]:
        """Whose prompts are read in this step, and how far: `piece` tokens in all, in turn."""
        reading = [running for running in self._running if running.pending > 1]
        if not reading:
            return []
        self._turn += 1
        turn = self._turn % len(reading)
        budget = self.piece
        chosen: list[tuple[Running, int]] = []
        for running in [*reading[turn:], *reading[:turn]]:
            seen = running.state.length
            border = (seen // self.piece + 1) * self.piece
            count = min(running.pending, border - seen)
            if chosen and count > budget:
                continue
            chosen.append((running, count))
            budget -= count
            if budget <= 0:
                break
        return chosen

    def _read(self, pieces: list[tuple[Running, int]]) -> None:
        pieces = [(running, count) for running, count in pieces if self._reserve(running, count)]
        pieces = [(running, count) for running, count in pieces if running.sequence is not None]
        if not pieces:
            return
        counts = [count for _, count in pieces]
        ids = torch.zeros(len(pieces), max(counts), dtype=torch.int64)
        for row, (running, count) in zip(ids, pieces, strict=True):
            first = running.state.length
            row[:count] = torch.tensor(running.ids[first : first + count])
        cache = Cache(self.pool.stores, [running.state for running, _ in pieces], self.pool)
        streams = self.model.streams(ids.to(self.model.device), cache, counts)
        done = []
        for b, (running, count) in enumerate(pieces):
            since = running.state.length - count
            self.prefix.remember_boundaries(running.ids, running.state, since)
            if running.pending == 0:
                done.append((b, running, count - 1))
        if not done:
            return
        ends = torch.stack([streams[b, last] for b, _, last in done]).unsqueeze(1)
        for _, running, _ in done:
            self.prefix.remember(running.ids, running.state)
        self._choose([running for _, running, _ in done], self.model.logits(ends)[:, 0])

    def _decode(self, ready: list[Running]) -> None:
        ready = [running for running in ready if self._reserve(running, 1)]
        ready = [running for running in ready if running.sequence is not None]
        if not ready:
            return
        ids = torch.tensor([[running.ids[-1]] for running in ready], device=self.model.device)
        cache = Cache(self.pool.stores, [running.state for running in ready], self.pool)
        self._choose(ready, self.model(ids, cache)[:, 0])

    def _choose(self, rows: Sequence[Running], logits: torch.Tensor) -> None:
        """Draw the next token of each and tell it; logits [rows, vocab]."""
        chosen = choose(logits, [running.row for running in rows])
        for running, token in zip(rows, chosen, strict=True):
            if isinstance(token, Exception):
                self.pool.wipe(running.state)
                self._end(running, "error", token)
                continue
            running.ids.append(token.id)
            running.usage.completion += 1
            self._totals["generated_tokens"] += 1
            try:
                over = running.say([token])
            except Exception as error:
                self._end(running, "error", error)
                continue
            if over or token.id in running.ends:
                self._end(running, "stop")
            elif self._is_full(running):
                self._end(running, "length")

    def _is_full(self, running: Running) -> bool:
        said = running.usage.completion
        return said >= running.job.sampling.max_tokens or len(running.ids) >= self.context

    # ---- memory ----------------------------------------------------------------------------

    def _reserve(self, running: Running, more: int) -> bool:
        """Pages for `more` tokens of a sequence; the latest comers are put back where none are
        free. False if that was this one."""
        if running.sequence is None:
            return False
        needed = self.pool.pages_for(running.state.length + more) - len(running.state.pages)
        while not self.pool.ensure(needed):
            latest = max(self._running, key=lambda other: other.number)
            if latest is running and len(self._running) == 1:
                self._end(running, "length")  # alone, and the pool is its context
                return False
            self._preempt(latest)
            if latest is running:
                return False
        for _ in range(needed):
            running.state.pages.append(self.pool.take())
        return True

    def _preempt(self, running: Running) -> None:
        """Take a sequence's slot and pages; it is read again when there is room."""
        self._totals["preempted"] += 1
        self._running.remove(running)
        self.pool.close(running.state)
        running.sequence = None
        waiting = sorted([running, *self._waiting], key=lambda other: other.number)
        with self._changed:
            self._waiting = deque(waiting)

    # ---- the end ---------------------------------------------------------------------------

    def _end(self, running: Running, reason: FinishReason, error: Exception | None = None) -> None:
        if running.over:
            return
        running.over = True
        if running.sequence is not None:
            if reason != "error" and running.state.length:
                self.prefix.remember(running.ids, running.state)
            self._running.remove(running)
            self.pool.close(running.state)
            running.sequence = None
        self._totals["failed" if reason == "error" else "finished"] += 1
        try:
            running.listener.finished(Finished(reason, running.usage, error))
        except Exception:
            log.exception("a listener failed at its end")

    def _fail_all(self, error: Exception) -> None:
        failure = EngineError(f"the engine failed ({type(error).__name__}: {error}); it goes on")
        failure.__cause__ = error
        with self._changed:
            failed = [*self._running, *self._waiting]
            self._running.clear()
            self._waiting.clear()
        for running in failed:
            running.sequence = None  # its state is not to be trusted
            self._end(running, "error", failure)
        self.pool = Pool(self.pool.stores)
        self.pool.wipe_all()
        self.prefix = self.prefix.emptied(self.pool)

    def _cancel_all(self) -> None:
        with self._changed:
            self._ended = True
            waiting = list(self._waiting)
            self._waiting.clear()
        for running in [*self._running, *waiting]:
            self._end(running, "cancelled")
