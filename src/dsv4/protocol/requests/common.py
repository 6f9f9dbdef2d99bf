"""What the three APIs ask in the same way: model, thinking, effort, sampling, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dsv4.protocol.constants import ThinkingMode
from dsv4.protocol.effort import EFFORT_WORDS, resolve_effort
from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests.fields import (
    check_characters,
    flag,
    inner,
    integer,
    mapping,
    missing,
    number,
    text,
    word,
    wrong,
)
from dsv4.protocol.requests.options import RequestOptions
from dsv4.protocol.requests.request import Api, Asked, Request
from dsv4.protocol.requests.tools import Force, too_short

_TINY = 5e-324  # the least number above 0


class Thought(NamedTuple):
    """Whether to think, and how hard: the encoder's word, and the client's."""

    mode: ThinkingMode
    effort: str | None
    word: str | None

    @property
    def on(self) -> bool:
        """Thinking mode."""
        return self.mode == "thinking"


def body_of(value: Any, key: str) -> Mapping[str, Any]:
    """A request's body; a bare list is one that has nothing but that list."""
    if isinstance(value, list | tuple):
        value = {key: value}
    if not isinstance(value, Mapping):
        raise wrong(value, "", f'a list of messages, or an object with "{key}"')
    check_characters(value)
    return value


def read_model(body: Mapping[str, Any], options: RequestOptions) -> str | None:
    """The name of the model, if the server has it."""
    name = text(body, "model")
    if options.models is None:
        return name
    if name is None:
        raise missing("", "model")
    if name not in options.models:
        names = ", ".join(sorted(options.models))
        raise RequestError(
            f"The supported API model names are {names}, but you passed {name}.", "model"
        )
    return name


def read_thinking(body: Mapping[str, Any], word: str | None, options: RequestOptions) -> Thought:
    """By `thinking.type`, else by the word of effort, else as the server has it."""
    thinking = body.get("thinking")
    kind = None
    if thinking is not None:
        kind = mapping(thinking, "thinking").get("type")
        if kind not in ("enabled", "adaptive", "disabled"):
            raise wrong(kind, "thinking.type", "enabled, adaptive or disabled")
        integer(thinking, "budget_tokens", "thinking")
    on = options.default_thinking if kind is None else kind != "disabled"
    if kind is None and word is not None:
        on = word != "none"
    if options.effort is not None:
        word, on = options.effort, options.effort != "none"
    if options.thinking is not None:
        on = options.thinking
    if not on:
        resolve_effort(None, options.revision)
        return Thought("chat", None, None)
    word = "high" if word in (None, "none") else word
    return Thought("thinking", resolve_effort(word, options.revision)[1], word)


def read_effort(body: Mapping[str, Any], key: str, path: str = "") -> str | None:
    """A word of effort."""
    return word(body, key, EFFORT_WORDS, path)


def check_limit(
    asked: int | None, thought: Thought, options: RequestOptions, lower: bool, path: str
) -> int | None:
    """A limit within bounds; above them it is lowered or refused."""
    most = options.max_tokens_thinking if thought.on else options.max_tokens_chat
    if asked is None or 1 <= asked <= most:
        return asked
    if asked > most and lower:
        return most
    raise RequestError(
        f"Invalid max_tokens value, the valid range of max_tokens is [1, {most}]", path
    )


def check_range(value: float | None, name: str, low: float, high: float, shown: str) -> None:
    """Raises RequestError for a number outside of a range, as `shown`."""
    if value is not None and not low <= value <= high:
        raise RequestError(f"Invalid {name} value, the valid range of {name} is {shown}", name)


def read_numbers(body: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Temperature and top_p, not yet checked."""
    return number(body, "temperature"), number(body, "top_p")


class Sampled(NamedTuple):
    """What to sample with, and what was asked."""

    asked: Asked
    temperature: float
    top_p: float


def sampling(
    asked: Asked,
    thought: Thought,
    tools: Sequence[Any],
    options: RequestOptions,
    lower: bool = False,
    limit: str = "max_tokens",
) -> Sampled:
    """Thinking is sampled at temperature 1 and top_p 1, 0.95 with tools, whatever was asked.

    A limit of tokens beyond the server's is lowered, or refused; `limit` is its field.
    """
    check_range(asked.temperature, "temperature", 0, 2, "[0, 2]")
    check_range(asked.top_p, "top_p", _TINY, 1, "(0, 1.0]")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise RequestError(
            "Invalid top_logprobs and logprobs value, logprobs must be set to true if"
            " top_logprobs is used.",
            "top_logprobs",
        )
    check_range(asked.top_logprobs, "top_logprobs", 0, 20, "[0, 20].")
    most = check_limit(asked.max_tokens, thought, options, lower, limit)
    asked = replace(asked, max_tokens=most)
    if asked.seed is not None and asked.seed >= 1 << 63:
        raise RequestError("Invalid seed value, the valid range of seed is [0, 2^63)", "seed")
    if thought.on:
        return Sampled(asked, 1.0, 0.95 if tools else 1.0)
    temperature = 1.0 if asked.temperature is None else float(asked.temperature)
    return Sampled(asked, temperature, 1.0 if asked.top_p is None else float(asked.top_p))


def read_stop(body: Mapping[str, Any], key: str) -> list[str] | str:
    """Stop strings, not yet checked."""
    given = body.get(key)
    if given is None:
        return []
    if isinstance(given, str) and key == "stop":
        return given
    if not isinstance(given, list | tuple):
        raise wrong(given, key, "text or a list of texts" if key == "stop" else "a list of texts")
    for at, value in enumerate(given):
        if not isinstance(value, str):
            raise wrong(value, f"{key}[{at}]", "text")
    return list(given)


def check_stop(given: list[str] | str, key: str = "stop") -> tuple[str, ...]:
    """At most 16 stop strings, none of them empty."""
    if isinstance(given, str):
        if not given:
            raise too_short("stop", key)
        return (given,)
    if len(given) > 16:
        raise RequestError(f"Stop string array too long: {len(given)}", key)
    for at, value in enumerate(given):
        if not value:
            raise too_short(f"stop[{at}]", f"{key}[{at}]")
    return tuple(given)


def read_stream(body: Mapping[str, Any]) -> bool:
    """Whether the reply is to come in pieces."""
    return flag(body, "stream") or False


def read_user(body: Mapping[str, Any]) -> None:
    """`metadata.user_id` must be text."""
    text(inner(body, "metadata"), "user_id", "metadata")


def check_json_word(texts: Sequence[str], message: str, path: str) -> None:
    """JSON mode needs the word somewhere, or the model may never end."""
    if not any("json" in said.lower() for said in texts):
        raise RequestError(message, path)


def request_of(
    api: Api,
    model: str | None,
    talk: tuple[Sequence[str], list[dict[str, Any]]],
    thought: Thought,
    force: Force,
    sampled: Sampled,
    options: RequestOptions,
    **more: Any,
) -> Request:
    """The request; `talk` is system texts and messages, `more` what not every API has."""
    system, messages = talk
    return Request(
        api=api,
        model=model,
        system="\n\n".join(filter(None, system)),
        messages=messages,
        thinking_mode=thought.mode,
        effort=thought.effort,
        effort_word=thought.word,
        revision=options.revision,
        tools=force.tools,
        tool_choice=force.choice,
        asked=sampled.asked,
        temperature=sampled.temperature,
        top_p=sampled.top_p,
        **more,
    )


def each_message(messages: Any, options: RequestOptions) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Messages and their paths. Raises RequestError for what is no list of objects, or empty."""
    if messages is None:
        raise missing("", "messages")
    if not isinstance(messages, list | tuple):
        raise wrong(messages, "messages", "a list")
    if not messages and not options.lenient:
        raise RequestError("is empty: at least one message is required", "messages")
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        yield mapping(message, path), path
