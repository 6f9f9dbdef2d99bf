"""What an engine is asked for, and what it tells while it works: ids in, ids out.

Text, messages and APIs are above this: whoever listens to a job reads its tokens, and says when the
reply is over (a stop string is seen in text, not in ids).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from dsv4.sampling import Sampling

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Token(NamedTuple):
    """One generated token; log-probabilities where the job asks for them.

    `top` holds the likeliest alternatives, falling, as (id, log-probability).
    """

    id: int
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


@dataclass
class Usage:
    """Tokens of one job: `cached` of the `prompt` were reused, and `missed` says why not more."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    missed: str = ""
    drafted: int = 0  # tokens that were proposed, and
    accepted: int = 0  # those that came true


@dataclass(frozen=True)
class Finished:
    """The last word on a job. `stop`: an end token, or its listener; `length`: a limit."""

    reason: FinishReason
    usage: Usage
    error: Exception | None = None


class Listener(Protocol):
    """Hears of a job, in the engine's thread: it must be quick and may not wait.

    An exception that it raises fails its job, and no other.
    """

    def prefilled(self, usage: Usage, prompt: Sequence[Token] = ()) -> None:
        """The prompt has been read; the first token comes next.

        `prompt` holds its tokens where the job asks for `prompt_logprobs`; the first has none.
        """
        ...

    def tokens(self, new: Sequence[Token]) -> bool:
        """One or more new tokens, the end token included; True says that the reply is over."""
        ...

    def finished(self, end: Finished) -> None:
        """Nothing more comes; said once, whatever happens."""
        ...


@dataclass(frozen=True)
class Job:
    """Continue `ids`. A job's output depends on these fields alone, not on what runs beside it.

    `end_ids` end the reply (default: the model's EOS). `logprobs`: how many alternatives to tell
    with each token, 0 for the token's own alone, None for nothing. `prompt_logprobs` asks the same
    of the prompt's tokens. `grammar` is a structural tag (xgrammar's words) that the reply is held
    to; an engine that has none may leave out one that is not `binding`. `number` tells the random
    numbers of jobs with one seed apart (n > 1). The last `said` of the ids are this reply's own
    beginning: random numbers, penalties and grammar go on behind them, so that what comes is what
    would have come had the reply never been cut there.
    """

    ids: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    number: int = 0
    end_ids: Sequence[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False
    grammar: Mapping[str, Any] | None = None
    binding: bool = True
    said: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class Handle(Protocol):
    """A job that was accepted."""

    def cancel(self) -> None:
        """Stop it before its next step; its listener hears `cancelled`."""
        ...


class FullError(RuntimeError):
    """The engine's queue is full: try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


class EngineError(RuntimeError):
    """The engine failed, or is closed: the reason is in the message."""


class GrammarError(ValueError):
    """A job that its own grammar, or that and its biases, let say nothing more, or not in time."""


class RemoteError(EngineError):
    """An engine elsewhere refused a job, or was lost: `status` is what HTTP calls that."""

    def __init__(self, message: str, status: int = 503, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class BackendState(NamedTuple):
    """One of the servers that compute for an engine: how it is, and what it was asked so far."""

    url: str
    live: bool
    why: str  # it is out; empty while it lives
    running: int
    requests: int
    failures: int


class EngineLike(Protocol):
    """What a server needs of an engine."""

    @property
    def context(self) -> int:
        """Tokens that a sequence can have."""
        ...

    def submit(self, job: Job, listener: Listener) -> Handle:
        """Queue a job. Raises ValueError for one that can never run (empty, too long, an id outside
        the vocabulary, a grammar that does not compile), FullError, EngineError.
        """
        ...

    def statistics(self) -> Mapping[str, float]:
        """Numbers for a status line and metrics, by name: running, waiting, pages, tokens …"""
        ...

    def totals(self) -> Mapping[str, float]:
        """Those of the statistics that only grow while it lives, by name."""
        ...

    def backends(self) -> Sequence[BackendState]:
        """The servers that compute for it; none where it computes by itself."""
        ...

    def close(self, seconds: float = 30.0) -> None:
        """Take no more jobs, let those that run finish for `seconds`, then cancel the rest."""
        ...
