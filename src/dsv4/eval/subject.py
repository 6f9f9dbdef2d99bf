"""What is evaluated: it answers messages or goes on with a text, and scores continuations.

    score(context, continuation) = Σ log p(token | all before),  greedy: each was the likeliest

An engine in this process and a server behind a URL are the same to everything above; the request of
a chat is one JSON body for both, so that both say, and score, the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from dsv4.protocol.stream import StreamParser

BESIDE = 2  # tokens of the context that a scored text leaves: BOS, and the one that is made
LOWEST = -9999.0  # what an API writes for a token that cannot come: JSON has no infinity
Encode = Callable[[str], list[int]]


class SubjectError(OSError):
    """It does not answer as it should: in one line, with the remedy."""


class NoTokensError(SubjectError):
    """It does not tell the tokens of a text."""


class TooLongError(ValueError):
    """A prompt that does not fit into the subject's context."""


@dataclass(frozen=True)
class Ask:
    """One generation. `prompt`: messages of a chat, or a text that goes on as it is.

    `effort` is a word of `resolve_effort`; `tools` are OpenAI's. In thinking mode DeepSeek's API
    samples at temperature 1 whatever is asked. An empty `effort` leaves the word out. A reply with
    a `schema` is one JSON object of it.
    """

    prompt: str | Sequence[Mapping[str, Any]]
    effort: str = "none"
    max_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: Sequence[str] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None

    def chat(self) -> dict[str, Any]:
        """The body of Chat Completions that asks for it, without the model's name."""
        assert not isinstance(self.prompt, str)
        body: dict[str, Any] = {"messages": [dict(m) for m in self.prompt]}
        body |= {"reasoning_effort": self.effort} if self.effort else {}
        body |= {"max_tokens": self.max_tokens, "seed": self.seed}
        body |= {"temperature": self.temperature, "top_p": self.top_p}
        if self.stop:
            body["stop"] = list(self.stop)
        if self.tools:
            body["tools"] = [dict(tool) for tool in self.tools]
        if self.schema is not None:
            form = {"name": "reply", "strict": True, "schema": dict(self.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body


@dataclass(frozen=True)
class Reply:
    """What was said. Only `text` is the answer; `calls` hold a name and arguments as JSON text."""

    text: str
    reasoning: str = ""
    calls: Sequence[Mapping[str, str]] = ()
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def logged(self) -> dict[str, Any]:
        """As a log holds it."""
        return vars(self) | {"calls": list(self.calls)}


class Score(NamedTuple):
    """Of one continuation: its log-probability, whether greedy decoding gives it, its tokens."""

    logprob: float
    greedy: bool
    tokens: int


class Subject(Protocol):
    """Usable from many threads at once."""

    @property
    def name(self) -> str:
        """What it is called in logs and tables."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens that a sequence can have, where it is known."""
        ...

    def count(self, ask: Ask) -> int:
        """Tokens of a prompt."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS. Raises NoTokensError, SubjectError."""
        ...

    def generate(self, ask: Ask) -> Reply:
        """The reply. Raises TooLongError, SubjectError."""
        ...

    def score_ids(
        self, context: Sequence[int], continuation: Sequence[int], *, bos: bool = True
    ) -> Score:
        """Of ids behind BOS (which is put before them unless they begin with it, or `bos` is
        False) and the context's. BOS itself has no score. Raises TooLongError, SubjectError."""
        ...

    def close(self) -> None:
        """Nothing more is asked."""
        ...


def score(subject: Subject, context: str, continuation: str) -> Score:
    """Of a text behind another; one that stands alone may be longer than the subject's context,
    and is then scored in `windows`. Raises as `score_ids`."""
    before, ids = split(subject.encode, context, continuation)
    size = len(ids) if subject.context is None else subject.context - BESIDE
    if before or len(ids) <= size:
        return subject.score_ids(before, ids)
    parts = [subject.score_ids(*pair, bos=not pair[0]) for pair in windows(ids, size)]
    return Score(
        sum(part.logprob for part in parts),
        all(part.greedy for part in parts),
        sum(part.tokens for part in parts),
    )


def windows(ids: Sequence[int], size: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """(context, continuation) of a text's ids, each of them once: `size` behind BOS, then as many
    behind the id before them; the last with so much context that its window is as long."""
    yield ids[:0], ids[:size]
    for start in range(size, len(ids), size):
        end = min(start + size, len(ids))
        yield ids[end - size - 1 : start], ids[start:end]


def split(encode: Encode, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of both, encoded as one text: what begins within the context is the context's.

    Spaces that end the context go to the continuation, as lm-eval has it: words begin with theirs.
    """
    bare = context.rstrip()
    continuation, context = context[len(bare) :] + continuation, bare
    whole, first = encode(context + continuation), len(encode(context))
    return whole[:first], whole[first:]


def added(tokens: Sequence[tuple[float | None, bool]]) -> Score:
    """The score of tokens, each with its log-probability and whether it was the likeliest."""
    total = 0.0
    for logprob, _ in tokens:
        total += LOWEST if logprob is None else max(logprob, LOWEST)
    return Score(total, all(likeliest for _, likeliest in tokens), len(tokens))


def read(text: str, reasoning: str, effort: str) -> tuple[str, str]:
    """(answer, reasoning) of a reply whose server may have left both in one text.

    A server that names the reasoning has told them apart. What comes otherwise is read as the model
    wrote it: `<think>` was the prompt's in thinking mode, so only its end must be there.
    """
    if reasoning or ("</think>" not in text and not text.lstrip().startswith("<think>")):
        return text, reasoning
    opened = text.lstrip().startswith("<think>") or effort == "none"
    parser = StreamParser("chat" if opened else "thinking", "tolerant", tools=[])
    parser.feed(text.lstrip() if opened else text)
    message = parser.finish(stopped=True)
    return message["content"] or "", message["reasoning_content"] or ""
