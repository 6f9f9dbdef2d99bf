"""Which jobs run: they come in their order, share the prompt's reading in turn, and make room.

Who came last gives its slot and pages back first, and is read again when there is room: preemption
by recomputing, which the prefix cache makes short.
"""

from __future__ import annotations

import logging
from collections import deque

from dsv4.engine.pool import OutOfMemoryError, Pool
from dsv4.engine.prefix import Found, PrefixCache
from dsv4.engine.request import Finished, FinishReason, Token
from dsv4.engine.running import Running

log = logging.getLogger("dsv4.engine")

WORTH, SHARE = 8, 16  # fewer tokens of a prompt, and less of it, are read sooner than put back
TOTALS = (
    "prompt_tokens cached_tokens generated_tokens finished failed preempted drafted_tokens "
    "accepted_tokens"
)


class Scheduler:
    """The jobs of one engine, in its thread; only `waiting` is added to from others.

    `piece`: prompt tokens read in a step.
    """

    def __init__(self, pool: Pool, prefix: PrefixCache, piece: int):
        self.pool, self.prefix, self.piece = pool, prefix, piece
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []
        self.totals = dict.fromkeys(TOTALS.split(), 0)
        self._turn = 0

    @property
    def wanted(self) -> int:
        """Jobs that run or wait, but for those that nobody waits for."""
        return sum(not job.cancelled for job in (*list(self.running), *list(self.waiting)))

    def admit(self) -> None:
        """Open waiting jobs, in their order, while a slot and pages for the prompt are there.

        One whose prefix is being read just now waits for it, and lets others pass.
        """
        for running in list(self.waiting):
            if not self.pool.free_slots:
                return
            found = self.prefix.find(running.ids)
            if found.length < WORTH and SHARE * found.length < len(running.ids):
                found = found.without(found.missed)
            if running.job.prompt_logprobs and not running.told:
                found = found.without("the prompt's own log-probabilities were asked for")
                running.prompt = [Token(running.job.ids[0])]
            elif self._is_being_read(running, found.length):
                continue
            if not self._open(running, found):
                return
            self.waiting.remove(running)

    def _is_being_read(self, running: Running, known: int) -> bool:
        """Whether a sequence that reads its prompt will soon have more of this one's."""
        until = min(known + self.piece, len(running.ids) - 1)
        return known < until and any(
            other.pending > 1
            and other.state.length < len(other.job.ids)
            and other.ids[:until] == running.ids[:until]
            for other in self.running
        )

    def _open(self, running: Running, found: Found) -> bool:
        """Give a job what it needs to run; False if there is too little."""
        sequence = self.pool.open()
        try:
            self.prefix.reuse(sequence, found)
            more = self.pool.pages_for(len(running.ids) + 1) - len(sequence.pages)
            fits = self.pool.ensure(more) or not self.running
        except OutOfMemoryError:
            fits = False
        if not fits:
            self.pool.close(sequence)
            return False
        if not running.usage.prompt:  # else it was preempted
            running.usage.prompt = len(running.job.ids)
            running.usage.cached, running.usage.missed = found.length, found.missed
            self.totals["prompt_tokens"] += len(running.job.ids)
            self.totals["cached_tokens"] += found.length
        running.sequence, running.turn = sequence, self._turn
        self.running.append(running)
        return True

    def drop_cancelled(self) -> None:
        """End what was cancelled, and free what it holds."""
        gone = [job for job in (*self.running, *list(self.waiting)) if job.cancelled]
        for running in gone:
            if running.sequence is None:
                self.waiting.remove(running)
            self.end(running, "cancelled")

    def pieces(self) -> list[tuple[Running, int]]:
        """Whose prompts are read in this step, and how far: `piece` tokens in all; who has waited
        longest comes first."""
        reading = [running for running in self.running if running.pending > 1]
        if not reading:
            return []
        self._turn += 1
        budget = self.piece
        chosen: list[tuple[Running, int]] = []
        for running in sorted(reading, key=lambda one: one.turn):
            seen = running.state.length
            border = (seen // self.piece + 1) * self.piece
            count = min(running.pending, border - seen)
            if chosen and count > budget:
                continue
            chosen.append((running, count))
            running.turn = self._turn
            budget -= count
            if budget <= 0:
                break
        return chosen

    def reserve(self, running: Running, more: int) -> bool:
        """Pages for `more` tokens of a sequence; the latest comers are put back where none are
        free. False if that was this one."""
        if running.sequence is None:
            return False
        needed = self.pool.pages_for(running.state.length + more) - len(running.state.pages)
        while not self.pool.ensure(needed):
            latest = max(self.running, key=lambda other: other.number)
            if latest is running and len(self.running) == 1:
                self.end(running, "length")  # alone, and the pool is its context
                return False
            self._preempt(latest)
            if latest is running:
                return False
        for _ in range(needed):
            running.state.pages.append(self.pool.take())
        return True

    def _preempt(self, running: Running) -> None:
        """Take a sequence's slot and pages; it is read again when there is room."""
        self.totals["preempted"] += 1
        self.running.remove(running)
        self.pool.close(running.state)
        running.sequence = None
        self.waiting.appendleft(running)  # it was the latest of those that ran: before all others

    def end(self, running: Running, reason: FinishReason, error: Exception | None = None) -> None:
        """The last word on a job: what it holds is given back, and a prefix of it remembered."""
        if running.over:
            return
        running.over = True
        if running.sequence is not None:
            if reason != "error" and running.state.length:
                self.prefix.remember(running.ids, running.state)
            self.running.remove(running)
            self.pool.close(running.state)
            running.sequence = None
        self.totals["failed" if reason == "error" else "finished"] += 1
        try:
            running.listener.finished(Finished(reason, running.usage, error))
        except Exception:
            log.exception("a listener failed at its end")
