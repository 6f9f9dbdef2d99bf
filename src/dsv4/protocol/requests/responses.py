"""Responses: a request's body to a `Request`.

Items become messages: calls gather until all of them are answered and then are one reply with its
results; reasoning and texts of the assistant that stand side by side are one reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import common, fields
from dsv4.protocol.requests.history import check_reasoning
from dsv4.protocol.requests.items import Items
from dsv4.protocol.requests.namespaces import Declared, declare
from dsv4.protocol.requests.options import DEFAULTS, RequestOptions
from dsv4.protocol.requests.request import Asked, Request
from dsv4.protocol.requests.tools import Choice, check_strict, constraint, in_force, read_format

_FORMATS = ("text", "json_object", "json_schema")
_SUMMARIES = ("auto", "concise", "detailed")
_VERBOSITY = ("low", "medium", "high")
_WEB = ("web_search", "web_search_2025_08_26")
_ECHOED = (
    *("instructions", "max_output_tokens", "reasoning", "temperature", "top_p", "text"),
    *("tool_choice", "tools", "top_logprobs", "user"),
)


def from_responses(body: Any, options: RequestOptions = DEFAULTS) -> Request:
    """A Responses request. Raises RequestError."""
    body = common.body_of(body, "input")
    temperature, top_p = common.read_numbers(body)
    limit = fields.integer(body, "max_output_tokens")
    top_logprobs = fields.integer(body, "top_logprobs")
    stream = common.read_stream(body)
    fields.text(body, "user")
    instructions = fields.text(body, "instructions")
    _check_history(body)
    reasoning = fields.inner(body, "reasoning")
    for key in ("summary", "generate_summary"):
        fields.word(reasoning, key, _SUMMARIES, "reasoning")
    word = common.read_effort(reasoning, "effort", "reasoning")
    text = fields.inner(body, "text")
    fields.word(text, "verbosity", _VERBOSITY, "text")
    given = fields.inner(text, "format", "text")
    fields.word(given, "type", _FORMATS, "text.format")
    model = common.read_model(body, options)
    thought = common.read_thinking({}, word, options)
    choice = _choice(body, options)
    declared = declare(fields.items(body, "tools"), options)
    items = Items(options, declared)
    items.read(body.get("input"), instructions)
    if options.need_reasoning and thought.on:
        check_reasoning(items.messages, bool(declared.offers), "reasoning_text", "input")
    force = in_force(declared.offers, choice, thought.on, options, needs_schema=False)
    _check_format(given, items, force.tools, options)
    if given.get("type") == "json_schema":
        fields.needed(given, "name", "text.format")
    response_format, of_format = read_format(given, "text.format", given, options)
    asked = Asked(temperature, top_p, None, limit, top_logprobs is not None, top_logprobs)
    sampled = common.sampling(asked, thought, force.tools, options, limit="max_output_tokens")
    return common.request_of(
        "responses",
        model,
        (items.system, items.messages),
        thought,
        force,
        sampled,
        options,
        response_format=response_format,
        constraint=constraint(force, of_format),
        stream=stream,
        namespaces=declared.namespaces,
        custom=declared.custom,
        echo=_echo(body, declared),
    )


def _check_history(body: Mapping[str, Any]) -> None:
    for key in ("previous_response_id", "conversation"):
        if body.get(key) is not None:
            raise RequestError("nothing is stored: send the history in input", key)


def _choice(body: Mapping[str, Any], options: RequestOptions) -> Choice:
    given = body.get("tool_choice")
    if given is None:
        return "auto"
    if isinstance(given, str):
        if given not in ("none", "auto", "required"):
            raise fields.wrong(given, "tool_choice", "none, auto, required, or name a function")
        return given
    kind = fields.mapping(given, "tool_choice").get("type")
    if kind in _WEB:
        if options.drop_web_search is False:
            raise RequestError("Server tools are not supported", "tool_choice")
        return "auto"
    if kind not in ("function", "custom"):
        raise fields.wrong(kind, "tool_choice.type", "function or custom")
    name = fields.needed(given, "name", "tool_choice")
    return {"type": "function", "function": {"name": name}}


def _check_format(
    given: Mapping[str, Any], items: Items, tools: list[dict[str, Any]], options: RequestOptions
) -> None:
    kind = given.get("type")
    if kind == "json_object" and not options.lenient:
        common.check_json_word(
            [*items.system, *(message["content"] for message in items.messages)],
            "Response input messages must contain the word 'json' in some form to use"
            " 'text.format' of type 'json_object'.",
            "text.format",
        )
    check_strict(tools, None if kind in (None, "text") else "text.format", options)


def _echo(body: Mapping[str, Any], declared: Declared) -> dict[str, Any]:
    """What the response repeats: as asked, less the tools of unknown types."""
    out = {key: body[key] for key in _ECHOED if body.get(key) is not None}
    if "tools" in out:
        out["tools"] = declared.known
    return out
