"""Completions: texts or ids go on as they are, without the chat protocol; or a gap is filled (FIM).

<fim_begin> prefix <fim_hole> suffix <fim_end>  →  what stands in the hole
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsv4.engine.request import Job, Token
from dsv4.protocol.deltas import Content, Delta
from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import common, fields
from dsv4.protocol.stop import StopMatcher
from dsv4.sampling import Sampling
from dsv4.server.errors import ApiError
from dsv4.server.exact import EXACT, Exact, read_exact
from dsv4.server.exchange import Exchange
from dsv4.server.extras import Extras, read_extras
from dsv4.server.reply import Update
from dsv4.server.scores import Legacy
from dsv4.server.settings import Settings
from dsv4.server.within import Within
from dsv4.server.writer import Event
from dsv4.tokenizer import Tokenizer, TokenizerError

FIM = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")
BOS = "<｜begin▁of▁sentence｜>"
USUAL = 16  # tokens, where the request says nothing: OpenAI's
MOST_PROMPTS = 1_024


class TextReader:
    """Reads a reply as plain text, up to a stop string."""

    def __init__(self, stop: Sequence[str]):
        self._stop = StopMatcher(stop)
        self._stopped = False

    def feed(self, piece: tuple[str, bool]) -> list[Delta]:
        """The text that is certain."""
        text = self._stop.push(piece[0])
        return [Content(text)] if text else []

    def close(self, stopped: bool = False) -> list[Delta]:
        """What was held back."""
        self._stopped = stopped
        text = self._stop.finish()
        return [Content(text)] if text else []

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended it."""
        return self._stop.matched

    @property
    def finish_reason(self) -> str:
        """stop or length."""
        return "stop" if self._stopped or self.stopped_by is not None else "length"


@dataclass(frozen=True)
class Completion:
    """A request: `prompts` are ids, `texts` what `echo` repeats of them; `own` ids are not shown.

    `max_tokens` 0 asks for the prompt's log-probabilities alone. `endless`: the model's end token
    ends nothing.
    """

    model: str | None
    prompts: list[list[int]]
    texts: list[str]
    own: list[int]  # how many ids of each prompt the server put before it
    sampling: Sampling
    extras: Extras
    max_tokens: int
    echo: bool = False
    logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False
    endless: bool = False
    exact: Exact = EXACT

    def jobs(self) -> Iterator[Job]:
        """One for each choice, those of one prompt side by side."""
        extras, exact = self.extras, self.exact
        for ids in self.prompts:
            for number in range(extras.choices):
                yield Job(
                    ids,
                    self.sampling,
                    exact.number + number,
                    end_ids=() if self.endless else None,
                    logprobs=self.logprobs,
                    prompt_logprobs=self.echo and self.logprobs is not None,
                    grammar=exact.grammar,
                    said=exact.said,
                    frequency_penalty=extras.frequency_penalty,
                    presence_penalty=extras.presence_penalty,
                    repetition_penalty=extras.repetition_penalty,
                    logit_bias=extras.logit_bias,
                )


def read_completion(
    body: Mapping[str, Any], tokenizer: Tokenizer, settings: Settings, context: int
) -> Completion:
    """A request's body. Raises RequestError."""
    options = common.RequestOptions(models=None if settings.any_model else settings.models)
    model = common.read_model(body, options)
    extras = read_extras(body, settings.max_choices)
    temperature, top_p = common.read_numbers(body)
    common.check_range(temperature, "temperature", 0, 2, "[0, 2]")
    common.check_range(top_p, "top_p", 5e-324, 1, "(0, 1.0]")
    logprobs = fields.integer(body, "logprobs")
    common.check_range(logprobs, "logprobs", 0, 20, "[0, 20]")
    best = fields.integer(body, "best_of")
    if best is not None and best != extras.choices:
        raise RequestError("must be n: only as many are generated as are returned", "best_of")
    echo = fields.flag(body, "echo") or False
    suffix = fields.text(body, "suffix")
    if suffix is not None and echo:
        raise RequestError("cannot be used with suffix", "echo")
    stream = common.read_stream(body)
    given = fields.inner(body, "stream_options")
    usage = fields.flag(given, "include_usage", "stream_options") or False
    endless = fields.flag(body, "ignore_eos") or False
    texts, prompts, own = _prompts(body, tokenizer, suffix, context)
    exact = read_exact(body, prompts)
    limit = _limit(body, prompts, context, echo and logprobs is not None)
    sampling = Sampling(
        1.0 if temperature is None else temperature,
        1.0 if top_p is None else top_p,
        extras.top_k,
        extras.min_p,
        extras.seed,
        (),
        max(limit, 1),
    )
    return Completion(
        model,
        prompts,
        texts,
        own,
        sampling,
        extras,
        limit,
        echo,
        logprobs,
        stream,
        usage,
        endless,
        exact,
    )


def _limit(body: Mapping[str, Any], prompts: list[list[int]], context: int, scored: bool) -> int:
    asked = fields.integer(body, "max_tokens")
    limit = USUAL if asked is None else asked
    if limit == 0 and not scored:
        raise RequestError("0 goes with echo and logprobs alone: ask for 1 at least", "max_tokens")
    longest = max(len(ids) for ids in prompts)
    if longest + limit > context and (asked is not None or longest >= context):
        raise RequestError(
            f"This model's maximum context length is {context} tokens. However, you requested"
            f" {longest + limit} tokens ({longest} in the prompt, {limit} in the completion)."
            " Please reduce the length of the prompt or completion.",
            "prompt",
        )
    return min(limit, context - longest)


def _prompts(
    body: Mapping[str, Any], tokenizer: Tokenizer, suffix: str | None, context: int
) -> tuple[list[str], list[list[int]], list[int]]:
    """Texts, ids, and how many of the ids are the server's own."""
    given = body.get("prompt")
    if given is None:
        raise fields.missing("", "prompt")
    many = given if isinstance(given, list) else [given]
    if many and all(type(token) is int for token in many):
        many = [many]
    if not many:
        raise RequestError("is empty: give a text, or ids", "prompt")
    if len(many) > MOST_PROMPTS:
        raise RequestError(f"has more than {MOST_PROMPTS} prompts", "prompt")
    texts, prompts, own = [], [], []
    for number, one in enumerate(many):
        path = f"prompt[{number}]" if isinstance(given, list) else "prompt"
        within = Within(tokenizer, context)
        if suffix is not None:
            text, ids, before = _gap(one, suffix, within, path)
        elif isinstance(one, str):
            text, ids, before = _text(one, within)
        else:
            text, ids, before = *_ids(one, tokenizer, path), 0
        texts.append(text)
        prompts.append(ids)
        own.append(before)
    return texts, prompts, own


def _text(text: str, tokenizer: Within) -> tuple[str, list[int], int]:
    """A prompt's control tokens count: whoever writes it speaks to the model itself."""
    ids = tokenizer.encode(text, special=True)
    bos = tokenizer.token_id(BOS)
    return (text, ids, 0) if ids[:1] == [bos] else (text, [bos, *ids], 1)


def _ids(given: Any, tokenizer: Tokenizer, path: str) -> tuple[str, list[int]]:
    if not isinstance(given, list) or not given or any(type(t) is not int for t in given):
        raise fields.wrong(given, path, "text, or a list of ids, not empty")
    for token in given:
        if not 0 <= token <= tokenizer.largest_id:
            why = f"an id from 0 to {tokenizer.largest_id}"
            raise fields.wrong(token, path, why)
    return tokenizer.decode(given), given


def _gap(prefix: Any, suffix: str, tokenizer: Within, path: str) -> tuple[str, list[int], int]:
    """Both texts are somebody's file: no control token in them counts."""
    if not isinstance(prefix, str):
        raise fields.wrong(prefix, path, "text, where there is a suffix")
    try:
        begin, hole, end = (tokenizer.token_id(token) for token in FIM)
    except TokenizerError as error:
        raise RequestError(f"this model cannot fill gaps: {error}", "suffix") from error
    bos = tokenizer.token_id(BOS)
    before, after = tokenizer.encode(prefix), tokenizer.encode(suffix)
    return prefix, [bos, begin, *before, hole, *after, end], 2


class CompletionWriter:
    """Writes the choices of one exchange."""

    def __init__(self, exchange: Exchange, asked: Completion):
        self._exchange, self._asked = exchange, asked
        count = len(exchange.replies)
        self._texts = [list[str]() for _ in range(count)]
        self._scores = [Legacy(exchange.tokenizer, asked.exact.named) for _ in range(count)]
        self._ids = [list[int]() for _ in range(count)]
        self._arrays: list[dict[str, list[Any]]] = [{} for _ in range(count)]
        self._seen = [0] * count  # tokens of each reply that are in the arrays
        self._finish = [""] * count

    last = b"data: [DONE]\n\n"

    def start(self) -> Iterator[Event]:
        """The prompts, where they are to be repeated; to who asks for ids, what was reused."""
        if self._asked.exact.ids:
            yield None, self._base() | {"choices": [], "dsv4": self._exchange.counts.own()}
        if not self._asked.echo:
            return
        for number, reply in enumerate(self._exchange.replies):
            prompt = number // self._asked.extras.choices
            tokens = list(reply.prompt)[self._asked.own[prompt] :]
            yield self._say(number, self._asked.texts[prompt], tokens, [], generated=False)

    def add(self, number: int, update: Update, over: bool) -> Iterator[Event]:
        """What was said, and at last why it ended."""
        reply = self._exchange.replies[number]
        if self._asked.max_tokens == 0:
            if over:
                self._finish[number] = "length"
                yield self._chunk(number, "", None, "length")
            return
        text = "".join(delta.text for delta in update.deltas if isinstance(delta, Content))
        seen, counts = self._seen[number], self._asked.logprobs is not None
        tokens = reply.said[seen:]
        ids = reply.ids[seen : seen + len(tokens) if counts else None]  # more may come meanwhile
        self._seen[number] += len(ids)
        if text or tokens or (ids and self._asked.exact.ids):
            yield self._say(number, text, tokens, ids, generated=True)
        if over:
            self._finish[number] = reply.finish_reason
            yield self._chunk(number, "", None, reply.finish_reason)

    def finish(self) -> Iterator[Event]:
        """Usage, if it was asked for, in a chunk without choices."""
        if self._asked.include_usage:
            yield None, self._base() | {"choices": []} | self._counts()

    def fail(self, error: ApiError) -> Iterator[Event]:
        """The error in place of a chunk."""
        yield None, error.openai()

    def whole(self) -> Mapping[str, Any]:
        """The `text_completion`."""
        choices = [
            {
                "index": number,
                "text": "".join(texts),
                "logprobs": self._arrays[number] or None,
                "finish_reason": self._finish[number],
            }
            | self._told_ids(number)
            for number, texts in enumerate(self._texts)
        ]
        return self._base() | {"choices": choices} | self._counts()

    def _told_ids(self, number: int) -> dict[str, Any]:
        if not self._asked.exact.ids:
            return {}
        prompt = self._asked.prompts[number // self._asked.extras.choices]
        return {"prompt_token_ids": prompt, "token_ids": self._ids[number]}

    def _say(
        self, number: int, text: str, tokens: list[Token], ids: list[int], generated: bool
    ) -> Event:
        self._texts[number].append(text)
        self._ids[number] += ids
        if self._asked.logprobs is None:
            return self._chunk(number, text, None, None, ids)
        scores = self._scores[number].add(tokens, generated)
        for name, values in scores.items():
            self._arrays[number].setdefault(name, []).extend(values)
        return self._chunk(number, text, scores, None, ids)

    def _chunk(
        self, number: int, text: str, scores: Any, finish: str | None, ids: Sequence[int] = ()
    ) -> Event:
        choice = {"index": number, "text": text, "logprobs": scores, "finish_reason": finish}
        if self._asked.exact.ids:
            choice["token_ids"] = ids
        chunk = self._base() | {"choices": [choice]}
        if self._asked.include_usage:
            chunk["usage"] = None
        elif finish is not None:
            chunk["dsv4"] = self._exchange.counts.own()
        return None, chunk

    def _base(self) -> dict[str, Any]:
        return {
            "id": self._exchange.id,
            "object": "text_completion",
            "created": self._exchange.created,
            "model": self._exchange.model,
            "system_fingerprint": None,
        }

    def _counts(self) -> dict[str, Any]:
        counts = self._exchange.counts
        if self._asked.max_tokens == 0:
            counts.completion = 0
        return {"usage": counts.openai(thinking=False), "dsv4": counts.own()}
