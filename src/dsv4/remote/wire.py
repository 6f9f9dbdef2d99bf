"""A job as a request of `/v1/completions`, and what comes back as tokens.

ids in and ids out where the server can; else text whose control tokens are spelled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dsv4.engine.request import Job, RemoteError, Token
from dsv4.remote.http import message_of, status_of
from dsv4.remote.text import TextIds
from dsv4.tokenizer import Tokenizer

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
LARGEST_SEED = 1 << 63
OWN = (400, 413, 422)  # what a request itself is to blame for


@dataclass(frozen=True)
class Able:
    """What a server was found to do. `kind`: who says to own its model (dsv4, vllm, …).

    `extended`: fields beyond OpenAI's are taken; `takes_ids`, `gives_ids`: prompts are ids, replies
    tell them; `holds`: a structural tag is obeyed; `adds_bos`: it puts one before every text.
    """

    model: str
    kind: str = ""
    context: int | None = None
    extended: bool = False
    takes_ids: bool = False
    gives_ids: bool = False
    holds: bool = False
    adds_bos: bool = False

    @property
    def exact(self) -> bool:
        """It goes on inside a reply as if that had never been cut."""
        return self.kind == "dsv4" and self.gives_ids


class LostError(Exception):
    """A stream broke off: another server may be asked."""


class RefusedError(Exception):
    """A server does not do what it was asked: `status` is its own, and when to ask again."""

    def __init__(self, message: str, status: int, retry_after: float):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def ends_of(job: Job, tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end a job's reply."""
    usual = [tokenizer.token_id(EOS)]
    return frozenset(usual if job.end_ids is None else job.end_ids)


def resumable(job: Job, able: Able) -> bool:
    """Whether a server can go on with a reply that another began, as if nothing had happened.

    A reply that nothing but chance or the likeliest token decides goes on anywhere; random numbers
    of a seed, penalties and grammars only where their past can be told.
    """
    if able.exact:
        return True
    seeded = job.sampling.seed is not None and not job.sampling.greedy
    penalised = job.frequency_penalty or job.presence_penalty
    return able.takes_ids and not (seeded or penalised or job.grammar)


def body_of(job: Job, able: Able, said: Sequence[int], tokenizer: Tokenizer) -> dict[str, Any]:
    """The request for what comes after `said`. Raises RemoteError for what the server lacks."""
    sampling = job.sampling
    body: dict[str, Any] = {
        "model": able.model,
        "prompt": _prompt([*job.ids, *said], able, tokenizer),
        "max_tokens": sampling.max_tokens - len(said),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.seed is not None:
        number = 0 if able.kind == "dsv4" else job.number
        body["seed"] = (sampling.seed + number) % LARGEST_SEED
    if job.frequency_penalty or job.presence_penalty:
        body["frequency_penalty"] = job.frequency_penalty
        body["presence_penalty"] = job.presence_penalty
    if job.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in job.logit_bias.items()}
    if able.extended:
        body |= extension(able.takes_ids)
    if able.kind == "dsv4":
        body["dsv4"] = {"number": job.number, "said": job.said + len(said)}
    echo = {"echo": True} if job.prompt_logprobs and not said else {}
    return (
        body
        | _beyond(job, able, ends_of(job, tokenizer), tokenizer.token_id(EOS))
        | _scores(job, able)
        | _held(job, able)
        | echo
    )


def extension(ids: bool) -> dict[str, Any]:
    """vLLM's fields that make a reply exact."""
    text = {} if ids else {"add_special_tokens": False}
    return {"return_token_ids": True, "skip_special_tokens": False} | text


def _prompt(ids: list[int], able: Able, tokenizer: Tokenizer) -> list[int] | str:
    if able.takes_ids:
        return ids
    text = tokenizer.decode(ids)
    if tokenizer.encode(text, special=True) != ids:
        raise RemoteError(
            "the backend takes text alone, in which a control token that the conversation merely "
            "spells would become one: leave it out, or take a backend that takes token ids",
            400,
        )
    return text.removeprefix(BOS) if able.adds_bos else text


def _beyond(job: Job, able: Able, ends: frozenset[int], eos: int) -> dict[str, Any]:
    """Settings that OpenAI's API has no name for: always said where they are understood, since a
    server may have defaults of its own."""
    sampling = job.sampling
    fields: dict[str, tuple[Any, Any]] = {
        "top_k": (sampling.top_k, 0),
        "min_p": (sampling.min_p, 0.0),
        "repetition_penalty": (job.repetition_penalty, 1.0),
        "ignore_eos": (eos not in ends, False),
    }
    if able.extended:
        more = {"stop_token_ids": sorted(ends - {eos})} if ends - {eos} else {}
        return {name: value for name, (value, _) in fields.items()} | more
    for name, (value, neutral) in fields.items():
        if value != neutral:
            raise RemoteError(f"the backend has no {name}: leave it out", 400)
    return {}


def _scores(job: Job, able: Able) -> dict[str, Any]:
    if job.logprobs is None:
        return {}
    if not able.gives_ids:
        raise RemoteError(
            "the backend does not say which tokens its log-probabilities belong to: leave them "
            "out, or take vLLM or dsv4 as the backend",
            400,
        )
    return {"logprobs": job.logprobs, "return_tokens_as_token_ids": True}


def _held(job: Job, able: Able) -> dict[str, Any]:
    if job.grammar is None:
        return {}
    if able.holds:
        return {"response_format": dict(job.grammar)}
    if job.binding:
        raise RemoteError(
            "the backend does not hold a reply to a format, a strict tool or a forced call: take "
            "vLLM (without --reasoning-parser) or dsv4 as the backend",
            400,
        )
    return {}


@dataclass
class Heard:
    """Reads a stream: the tokens of each chunk; `finish`, `cached`, `missed` … as they are told.

    `first`: it is not the rest of a reply that another server began.
    """

    job: Job
    able: Able
    tokenizer: Tokenizer
    first: bool = True
    finish: str = ""
    done: bool = False
    cached: int = 0
    missed: str = ""
    drafted: int = 0
    accepted: int = 0
    prompt: list[Token] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._text = TextIds(self.tokenizer)

    def read(self, data: bytes) -> list[Token]:
        """The tokens of one event. Raises LostError for what is no chunk, or a fault of the server,
        and RemoteError where the request itself failed, as it would elsewhere.
        """
        if data == b"[DONE]":
            self.done = True
            return []
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise LostError("the stream holds what is no JSON") from error
        if isinstance(chunk, Mapping) and (chunk.get("error") or chunk.get("object") == "error"):
            _fail(chunk)
        try:
            return self._tokens(chunk)
        except (TypeError, AttributeError, LookupError, ValueError) as error:
            raise LostError("the stream holds what is no chunk of a completion") from error

    def _tokens(self, chunk: Mapping[str, Any]) -> list[Token]:
        self._account(chunk)
        choices = chunk.get("choices") or [{}]
        choice = choices[0]
        self.finish = choice.get("finish_reason") or self.finish
        if self.finish in ("abort", "error"):  # vLLM's, when it ends
            raise LostError(f"the server ended the reply itself ({self.finish})")
        if self.able.gives_ids:
            return self._scored(choice) if choice.get("logprobs") else self._plain(choice)
        ids = self._text.feed(choice.get("text") or "")
        return [Token(token) for token in ids + (self._text.finish() if self.finish else [])]

    def _plain(self, choice: Mapping[str, Any]) -> list[Token]:
        return [Token(token) for token in choice.get("token_ids") or ()]

    def _scored(self, choice: Mapping[str, Any]) -> list[Token]:
        arrays = choice["logprobs"]
        names, own = arrays["tokens"], arrays["token_logprobs"]
        tops = arrays.get("top_logprobs") or [None] * len(names)
        found = [
            Token(_number(name), logprob, _likeliest(top or {}, self.job.logprobs or 0))
            for name, logprob, top in zip(names, own, tops, strict=True)
        ]
        asked = len(self.job.ids) if self.job.prompt_logprobs and self.first else 0
        rest = asked - len(self.prompt)
        self.prompt += found[:rest]
        return found[rest:]

    def _account(self, chunk: Mapping[str, Any]) -> None:
        usage = chunk.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        self.cached = details.get("cached_tokens") or self.cached
        own = chunk.get("dsv4") or {}
        self.cached = own.get("reused_tokens") or self.cached
        self.missed = own.get("not_reused_because") or self.missed
        self.drafted = own.get("drafted_tokens") or self.drafted
        self.accepted = own.get("accepted_tokens") or self.accepted


def _fail(event: Mapping[str, Any]) -> NoReturn:
    """An error in place of a chunk: the request's own, which no other server would answer, or the
    server's."""
    message = message_of(event) or "the stream holds an error"
    status = status_of(event)
    if status in OWN:
        raise RemoteError(message, status)
    raise LostError(message)


def _number(name: str) -> int:
    try:
        return int(name.removeprefix("token_id:"))
    except ValueError as error:
        raise LostError(f"a token is called {name[:40]!r} in place of its id") from error


def _likeliest(top: Mapping[str, float], count: int) -> list[tuple[int, float]]:
    """The `count` likeliest, falling, equal ones by lower id: a server may add the token's own."""
    found = [(_number(name), logprob) for name, logprob in top.items()]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:count]
