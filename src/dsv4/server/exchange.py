"""One request on its way: what was asked, the jobs that it became, and their replies."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from dsv4.engine.request import EngineLike, Job
from dsv4.server.errors import failed
from dsv4.server.reply import Inbox, Parser, Reply, Update, updates
from dsv4.server.usage import Counts
from dsv4.tokenizer import Tokenizer


@dataclass
class Exchange:
    """`replies` in the order of their choices, those of one prompt side by side."""

    id: str
    model: str
    tokenizer: Tokenizer
    inbox: Inbox
    prompts: int = 1
    created: int = field(default_factory=lambda: int(time.time()))
    began: float = field(default_factory=time.monotonic)
    first: float | None = None  # when the first token came, by the same clock
    replies: list[Reply] = field(default_factory=list)

    def submit(
        self,
        engine: EngineLike,
        jobs: Sequence[Job],
        parser: Callable[[], Parser],
        *,
        marks: frozenset[str],
        thinking: bool = False,
    ) -> None:
        """Queue all jobs, or none: what the engine raises for one cancels those before it."""
        try:
            for job in jobs:
                reply = Reply(
                    parser(),
                    self.tokenizer,
                    self.inbox,
                    marks=marks,
                    thinking=thinking,
                    scored=job.logprobs is not None,
                )
                self.replies.append(reply)
                reply.attach(engine.submit(job, reply))
        except BaseException:
            self.cancel()
            raise

    async def updates(self, quiet: float) -> AsyncIterator[tuple[int, Update, bool] | None]:
        """See `reply.updates`. Raises ApiError for a job that failed, when it did."""
        async for item in updates(self.replies, self.inbox, quiet):
            if item is not None:
                number, _, over = item
                if self.first is None and self.replies[number].ids:
                    self.first = time.monotonic()
                end = self.replies[number].end
                if over and end is not None and end.reason in ("cancelled", "error"):
                    raise failed(end)
            yield item

    async def started(self, seconds: float) -> None:
        """Wait for a first token, or that long. Raises ApiError for a job that failed by then."""
        until = time.monotonic() + seconds
        while not any(reply.ids or reply.end for reply in self.replies):
            left = until - time.monotonic()
            if left <= 0 or not await self.inbox.wait(left):
                break
        self.inbox.wake()  # what came is still there to be taken
        for reply in self.replies:
            if reply.end is not None and reply.end.reason in ("cancelled", "error"):
                raise failed(reply.end)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        for reply in self.replies:
            reply.cancel()

    @property
    def counts(self) -> Counts:
        """Tokens so far."""
        return Counts.of(self.replies, self.prompts)

    @property
    def ok(self) -> bool:
        """All replies came to their end."""
        ends = [reply.end for reply in self.replies]
        return all(end is not None and end.reason in ("stop", "length") for end in ends)
