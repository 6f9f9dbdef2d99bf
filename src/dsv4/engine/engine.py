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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from dsv4.engine.constraint import Constraints
from dsv4.engine.disk import DiskStore
from dsv4.engine.drafts import Drafts
from dsv4.engine.memory import Plan
from dsv4.engine.pool import Pool
from dsv4.engine.prefix import PrefixCache
from dsv4.engine.request import BackendState, EngineError, FullError, Job, Listener, Token
from dsv4.engine.running import Running
from dsv4.engine.sampler import Row, choose_runs, told
from dsv4.engine.scheduler import Scheduler
from dsv4.engine.shelf import Shelf
from dsv4.model.cache import Cache
from dsv4.model.transformer import Transformer
from dsv4.ops.native import leave_threads_to_native

log = logging.getLogger("dsv4.engine")


class Engine:
    """Continues many sequences at once on one model, whose CPU it takes.

    `slots` sequences run at once; `memory` bytes hold their state and what the prefix cache keeps
    (default: what `Plan` says). `queue` jobs may wait. `period`: tokens between states of the
    prefix cache (prefix.py), by default a page. `folder`: where prefixes are kept on disk, and how
    many bytes of them; `identity` tells models apart whose prefixes must not meet there. `draft`:
    let the model's own draft propose tokens, down to this confidence (0: all); None does not.
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
        draft: float | None = None,
    ):
        self.model, self.constraints, self._queue = model, constraints, queue
        plan = Plan.of(model, slots, memory)
        self.pool = Pool(model.new_stores(plan.slots, plan.pages))
        size = self.pool.page_tokens
        config = model.config
        period = size if period is None else period
        # a piece ends where rings still hold the windows of every boundary in it
        piece = size * (config.sliding_window // size + 1)
        if folder is not None and not identity:
            raise ValueError("prefixes on disk need the identity of the model's weights")
        runs = f"{model.mode} {model.dtype} {model.twin is not None} {config}"
        name = hashlib.blake2b(identity + runs.encode(), digest_size=16).digest()
        self._disk = None
        shelf = None
        if folder is not None:
            self._disk = DiskStore(
                Path(folder) / name.hex(), limit=folder_bytes, per_hour=folder_bytes_per_hour
            )
            shelf = Shelf(self._disk, self.pool)
        self.prefix = PrefixCache(
            self.pool, name, period=period, state_bytes=plan.state_bytes, shelf=shelf
        )
        self.jobs = Scheduler(self.pool, self.prefix, piece)
        self.drafts = None
        if draft is not None:
            if not model.mtp:
                raise ValueError("this model has no draft: its checkpoint holds no mtp.* tensors")
            self.drafts = Drafts(model, plan.slots, draft)
        self._changed = threading.Condition()
        self._closing: float | None = None  # when what still runs is cancelled
        self._ended = False
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
        if job.end_ids is None:
            job = replace(job, end_ids=[self.model.config.eos_token_id])
        constraint = None
        if job.grammar is not None:
            if self.constraints is None:
                raise ValueError("a grammar needs the tokenizer: give the engine its constraints")
            constraint = self.constraints.compile(job.grammar, job.end_ids)
        running = Running(job, listener, Row(job, constraint), next(self._numbers), self._wake)
        with self._changed:
            if self._closing is not None or self._ended:
                raise EngineError("the engine is shutting down: it takes no more requests")
            waiting = self.jobs.wanted - self.pool.stores.slots
            if waiting >= self._queue:  # a job that a free slot will take does not wait
                raise FullError(
                    f"{max(waiting, 0)} requests wait already: try again later",
                    max(1.0, 0.1 * waiting),
                )
            self.jobs.waiting.append(running)
            self._changed.notify()
        return running

    def statistics(self) -> Mapping[str, float]:
        """Numbers for metrics: how it is, and what it counted."""
        return {
            "running": len(self.jobs.running),
            "waiting": len(self.jobs.waiting),
            "free_slots": self.pool.free_slots,
            "free_pages": self.pool.free_pages,
            "pages": self.pool.stores.pages,
            "prefix_pages": self.prefix.held_pages,
            "prefix_state_bytes": self.prefix.held_bytes,
            **self.totals(),
        }

    def totals(self) -> Mapping[str, float]:
        """Counts since the start."""
        return {**asdict(self.prefix.counters), **self.jobs.totals}

    def backends(self) -> Sequence[BackendState]:
        """None: it computes by itself."""
        return ()

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
        if not 0 <= job.said < len(job.ids):
            raise ValueError(f"said = {job.said}: must leave a prompt of the {len(job.ids)} ids")
        if len(job.ids) >= self.context:
            raise ValueError(
                f"This model's maximum context length is {self.context} tokens. However, your "
                f"prompt has {len(job.ids)} tokens. Please reduce the length of the prompt."
            )

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    # ---- the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        if self.model.twin is not None:
            leave_threads_to_native()
        while True:
            with self._changed:
                while not self.jobs.waiting and not self.jobs.running and self._closing is None:
                    self._changed.wait()
                closing = self._closing
            if closing is not None and (
                time.monotonic() >= closing or not (self.jobs.waiting or self.jobs.running)
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
        self.jobs.drop_cancelled()
        self.jobs.admit()
        pieces = self.jobs.pieces()
        if pieces:
            self._read(pieces)
        ready = [running for running in self.jobs.running if running.pending == 1]
        ready = [running for running in ready if not any(running is r for r, _ in pieces)]
        if ready:
            self._decode(ready)

    def _read(self, pieces: list[tuple[Running, int]]) -> None:
        pieces = [
            (running, count) for running, count in pieces if self.jobs.reserve(running, count)
        ]
        pieces = [(running, count) for running, count in pieces if running.sequence is not None]
        if not pieces:
            return
        counts = [count for _, count in pieces]
        ids = torch.zeros(len(pieces), max(counts), dtype=torch.int64)
        for row, (running, count) in zip(ids, pieces, strict=True):
            first = running.state.length
            row[:count] = torch.tensor(running.ids[first : first + count])
        cache = Cache(self.pool.stores, [running.state for running, _ in pieces], self.pool)
        ids = ids.to(self.model.device)
        if self.drafts is not None:
            for running, _ in pieces:
                self.drafts.follow(running)
        streams, targets = self.model.streams_and_targets(ids, cache, counts)
        if self.drafts is not None:
            rows = [running for running, _ in pieces]
            self.drafts.read(rows, ids, streams, targets, counts)
        done = []
        for b, (running, count) in enumerate(pieces):
            since = running.state.length - count
            if running.job.prompt_logprobs and not running.told:
                self._tell_prompt(running, since, streams[b, :count])
            self.prefix.remember_boundaries(running.ids, running.state, since)
            if running.pending == 0:
                done.append((b, running, count - 1))
        if not done:
            return
        ends = torch.stack([streams[b, last] for b, _, last in done]).unsqueeze(1)
        for _, running, _ in done:
            self.prefix.remember(running.ids, running.state)
        rows = [running for _, running, _ in done]
        nothing: list[list[int]] = [[] for _ in rows]
        logits = self._logits(ends, [1] * len(rows))
        chosen = choose_runs(logits, [running.row for running in rows], nothing)
        for running, tokens in zip(rows, chosen, strict=True):
            self._say(running, tokens)

    def _decode(self, ready: list[Running]) -> None:
        """One step: each sequence's last token, and those drafted after it."""
        began = time.perf_counter()
        drafts = self.drafts
        drafting = drafts is not None and drafts.pays.wanted(len(ready))
        most = [self._room(running) if drafting else 0 for running in ready]
        ready = [r for r, more in zip(ready, most, strict=True) if self.jobs.reserve(r, 1 + more)]
        ready = [running for running in ready if running.sequence is not None]
        if not ready:
            return
        drafted: list[list[int]] = [[] for _ in ready]
        if drafts is not None and drafting:
            for running in ready:
                drafts.follow(running)
            drafted = drafts.propose(ready, [self._room(running) for running in ready])
        lengths = [1 + len(more) for more in drafted]
        ids = torch.tensor(
            [
                [running.ids[-1], *more, *[0] * (max(lengths) - 1 - len(more))]
                for running, more in zip(ready, drafted, strict=True)
            ],
            device=self.model.device,
        )
        cache = Cache(self.pool.stores, [running.state for running in ready], self.pool)
        before = cache.lengths
        streams, targets = self.model.streams_and_targets(ids, cache, lengths)
        rows = [running.row for running in ready]
        chosen = choose_runs(self._logits(streams, lengths), rows, drafted)
        kept = [0 if isinstance(tokens, Exception) else len(tokens) for tokens in chosen]
        cache.truncate([length + n for length, n in zip(before, kept, strict=True)])
        if drafts is not None:
            if drafting:
                drafts.read(ready, ids, streams, targets, kept)
            drafts.pays.measured(len(ready), drafting, sum(kept), time.perf_counter() - began)
            self.jobs.totals["drafted_tokens"] += sum(map(len, drafted))
            self.jobs.totals["accepted_tokens"] += sum(max(n - 1, 0) for n in kept)
        for running, tokens, more in zip(ready, chosen, drafted, strict=True):
            running.usage.drafted += len(more)
            self._say(running, tokens)

    def _room(self, running: Running) -> int:
        """How many tokens may be drafted for a sequence, which makes one more by itself."""
        assert self.drafts is not None
        left = running.job.sampling.max_tokens - running.usage.completion
        return max(0, min(self.drafts.most, left - 1, self.context - len(running.ids) - 1))

    def _logits(self, streams: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Logits [Σ lengths, vocab] of the first columns of streams [b, n, hc, d]."""
        if min(lengths) < streams.shape[1]:
            parts = [row[:length] for row, length in zip(streams, lengths, strict=True)]
            streams = torch.cat(parts).unsqueeze(1)  # [Σ lengths, 1, hc, d]
        return self.model.logits(streams).flatten(0, 1)

    def _say(self, running: Running, tokens: list[Token] | Exception) -> None:
        """Tell what was chosen; the last of it is what the model sees next."""
        if isinstance(tokens, Exception):
            self.pool.wipe(running.state)
            self.jobs.end(running, "error", tokens)
            return
        running.ids += [token.id for token in tokens]
        running.usage.completion += len(tokens)
        running.usage.accepted += len(tokens) - 1
        self.jobs.totals["generated_tokens"] += len(tokens)
        try:
            over = running.say(tokens)
        except Exception as error:
            self.jobs.end(running, "error", error)
            return
        if over or running.row.over(tokens[-1].id):
            self.jobs.end(running, "stop")
        elif self._is_full(running):
            self.jobs.end(running, "length")

    def _is_full(self, running: Running) -> bool:
        said = running.usage.completion
        return said >= running.job.sampling.max_tokens or len(running.ids) >= self.context

    def _tell_prompt(self, running: Running, first: int, streams: torch.Tensor) -> None:
        """Log-probabilities of the prompt behind `first`, from its streams [n, hc, d]."""
        follow = running.job.ids[first + 1 : first + 1 + len(streams)]
        if follow:
            logits = self.model.logits(streams[: len(follow)].unsqueeze(0))[0]
            tops = [running.job.logprobs or 0] * len(follow)
            running.prompt += told(logits, follow, tops)

    # ---- the end ---------------------------------------------------------------------------

    def _fail_all(self, error: Exception) -> None:
        failure = EngineError(f"the engine failed ({type(error).__name__}: {error}); it goes on")
        failure.__cause__ = error
        with self._changed:
            failed = [*self.jobs.running, *self.jobs.waiting]
            self.jobs.running.clear()
            self.jobs.waiting.clear()
        for running in failed:
            running.sequence = None  # its state is not to be trusted
            self.jobs.end(running, "error", failure)
        self.pool = self.jobs.pool = Pool(self.pool.stores)
        self.pool.wipe_all()
        self.prefix = self.jobs.prefix = self.prefix.emptied(self.pool)

    def _cancel_all(self) -> None:
        with self._changed:
            self._ended = True
            waiting = list(self.jobs.waiting)
            self.jobs.waiting.clear()
        for running in [*self.jobs.running, *waiting]:
            self.jobs.end(running, "cancelled")
