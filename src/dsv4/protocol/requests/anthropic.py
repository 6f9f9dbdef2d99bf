"""Messages: a request's body to a `Request`.

Blocks become reasoning, texts, calls and results. Results stand before anything else that a user
says, one for each call of the reply before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dsv4.protocol.constants import UNSUPPORTED
from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import common, fields
from dsv4.protocol.requests.history import (
    Pending,
    check_reasoning,
    is_billing,
    object_of,
    part_text,
    parts_text,
    reminder,
)
from dsv4.protocol.requests.options import DEFAULTS, RequestOptions
from dsv4.protocol.requests.request import Asked, Constraint, Request
from dsv4.protocol.requests.tools import (
    Choice,
    Offer,
    check_name,
    constraint,
    in_force,
    read_format,
)

_FIXED = {"image": UNSUPPORTED["image"]}
_SERVER_BLOCKS = ("server_tool_use", "web_search_tool_result")
_ASSISTANTS = ("thinking", "redacted_thinking", "tool_use", *_SERVER_BLOCKS)


def from_anthropic(body: Any, options: RequestOptions = DEFAULTS) -> Request:
    """A Messages request, or a bare list of its messages. Raises RequestError."""
    body = common.body_of(body, "messages")
    temperature, top_p = common.read_numbers(body)
    limit = fields.integer(body, "max_tokens")
    stop = common.read_stop(body, "stop_sequences")
    stream = common.read_stream(body)
    common.read_user(body)
    model = common.read_model(body, options)
    word = common.read_effort(fields.inner(body, "output_config"), "effort", "output_config")
    thought = common.read_thinking(body, word, options)
    choice = _choice(body, options)
    offers = _offers(body, options)
    system = _system(body)
    history = _History(options)
    history.read(body.get("messages"))
    if options.need_reasoning and thought.on:
        check_reasoning(history.messages, bool(offers), "content[].thinking", "messages")
    force = in_force(offers, choice, thought.on, options, needs_schema=True)
    response_format, of_format = _format(body, options)
    stops = common.check_stop(stop, "stop_sequences")
    asked = Asked(temperature, top_p, None, limit)
    sampled = common.sampling(asked, thought, force.tools, options, lower=True)
    return common.request_of(
        "messages",
        model,
        ([system], history.messages),
        thought,
        force,
        sampled,
        options,
        response_format=response_format,
        constraint=constraint(force, of_format),
        stop=stops,
        stream=stream,
    )


def _choice(body: Mapping[str, Any], options: RequestOptions) -> Choice:
    given = body.get("tool_choice")
    if given is None:
        return "auto"
    kind = fields.mapping(given, "tool_choice").get("type")
    if kind == "tool":
        name = fields.needed(given, "name", "tool_choice")
        return {"type": "function", "function": {"name": name}}
    if kind not in ("auto", "any", "none"):
        raise fields.wrong(kind, "tool_choice.type", "auto, any, none or tool")
    if kind == "any" and options.think_then_call:
        return "required"
    return "none" if kind == "none" else "auto"


def _format(
    body: Mapping[str, Any], options: RequestOptions
) -> tuple[dict[str, Any] | None, Constraint | None]:
    """What `output_config.format`, or `output_format` of earlier clients, asks for."""
    given, path = (
        fields.inner(fields.inner(body, "output_config"), "format"),
        "output_config.format",
    )
    if not given:
        given, path = fields.inner(body, "output_format"), "output_format"
    return (
        read_format(given, path, given, options)
        if given.get("type") == "json_schema"
        else (None, None)
    )


def _offers(body: Mapping[str, Any], options: RequestOptions) -> list[Offer]:
    offers = []
    for number, tool in enumerate(fields.items(body, "tools")):
        path = f"tools[{number}]"
        kind = fields.text(fields.mapping(tool, path), "type", path)
        if kind not in (None, "custom"):
            if options.drop_web_search and kind.startswith("web_search"):
                continue
            raise RequestError(f"{path}: server tools are not supported", path)
        name = fields.needed(tool, "name", path)
        description = fields.text(tool, "description", path)
        fields.flag(tool, "defer_loading", path)
        check_name(name, path, options)
        schema = tool.get("input_schema")
        offers.append(Offer(name, description, schema, None, path, f"{path}.input_schema"))
    return offers


def _system(body: Mapping[str, Any]) -> str:
    given = body.get("system")
    if given is None or isinstance(given, str):
        return given or ""
    parts = fields.items(body, "system")
    for number, part in enumerate(parts):
        path = f"system[{number}]"
        if fields.mapping(part, path).get("type") != "text":
            raise fields.wrong(part.get("type"), f"{path}.type", '"text"')
    texts = [fields.needed(part, "text", f"system[{i}]") for i, part in enumerate(parts)]
    if texts and is_billing(texts[0]):
        del texts[0]
    return "\n\n".join(texts)


class _History:
    """The messages as they are gathered, in the encoder's form."""

    def __init__(self, options: RequestOptions):
        self._options, self._pending = options, Pending(options)
        self.messages: list[dict[str, Any]] = []

    def read(self, messages: Any) -> None:
        """All messages of a request."""
        for message, path in common.each_message(messages, self._options):
            role = message.get("role")
            if role not in ("user", "assistant", "system"):
                raise fields.wrong(role, f"{path}.role", "user, assistant or system")
            content = message.get("content")
            if content is None and not self._options.lenient:
                raise fields.missing(path, "content")
            content = "" if content is None else content
            if role != "system" and isinstance(content, list | tuple) and not content:
                self._empty(path)
            if role == "system":
                self._pending.settle()
                self._reminder(content, f"{path}.content")
            elif role == "user":
                self._user(content, f"{path}.content")
            else:
                self._pending.settle()
                self._assistant(content, f"{path}.content")
        self._pending.settle()

    def _blocks(self, content: Any, path: str) -> list[tuple[Any, str]]:
        if not isinstance(content, list | tuple):
            raise fields.wrong(content, path, "text or a list of blocks")
        return [(block, f"{path}[{number}]") for number, block in enumerate(content)]

    def _empty(self, path: str) -> None:
        if not self._options.lenient:
            raise RequestError("all messages must have non-empty content", f"{path}.content")

    def _reminder(self, content: Any, path: str) -> None:
        self.messages += reminder(parts_text(content, path, ("text",), _FIXED))

    def _user(self, content: Any, path: str) -> None:
        if isinstance(content, str):
            self._pending.settle()
            self.messages.append({"role": "user", "content": content})
            return
        for block, where in self._blocks(content, path):
            if isinstance(block, Mapping) and block.get("type") == "tool_result":
                self._result(block, where)
                continue
            self._pending.settle()
            text = self._text(block, where, _ASSISTANTS)
            self.messages.append({"role": "user", "content": text})
        self._pending.settle()

    def _text(self, block: Any, path: str, others: Sequence[str]) -> str:
        """The text of a block, if it is none of the other role's."""
        kind = fields.mapping(block, path).get("type")
        if kind in others:
            raise RequestError(f"a {kind} block belongs to the other role", path)
        return part_text(block, path, ("text",), _FIXED)

    def _result(self, block: Mapping[str, Any], path: str) -> None:
        call_id = fields.needed(block, "tool_use_id", path)
        fields.flag(block, "is_error", path)
        self._pending.answer(call_id, f"{path}.tool_use_id")
        content = block.get("content")
        text = parts_text("" if content is None else content, f"{path}.content", ("text",), _FIXED)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _assistant(self, content: Any, path: str) -> None:
        if isinstance(content, str):
            self.messages.append({"role": "assistant", "content": content})
            return
        thoughts: list[str] = []
        texts: list[str] = []
        calls: list[dict[str, Any]] = []
        for block, where in self._blocks(content, path):
            kind = fields.mapping(block, where).get("type")
            if kind == "thinking":
                thoughts.append(fields.needed(block, "thinking", where))
            elif kind == "tool_use":
                calls.append(self._call(block, where))
            elif kind in _SERVER_BLOCKS:
                if not self._options.drop_web_search and not self._options.lenient:
                    raise RequestError("server tools are not supported", where)
            elif kind != "redacted_thinking":  # nobody can read that
                if calls and not self._options.lenient:
                    raise RequestError("nothing may stand between calls and their results", where)
                texts.append(self._text(block, where, ("tool_result",)))
        out = {"role": "assistant", "content": _joined(texts)}
        out["reasoning_content"] = _joined(thoughts)
        self.messages.append(out | ({"tool_calls": calls} if calls else {}))

    def _call(self, block: Mapping[str, Any], path: str) -> dict[str, Any]:
        call_id = fields.needed(block, "id", path)
        name = fields.needed(block, "name", path)
        if not name or '"' in name:
            raise fields.wrong(name, f"{path}.name", "text without a quote")
        if "input" not in block and not self._options.lenient:
            raise fields.missing(path, "input")
        given = block.get("input")
        if not isinstance(given, Mapping):
            given = object_of(json.dumps(given, ensure_ascii=False))
        self._pending.call(call_id, f"{path}.id")
        return {"id": call_id, "function": {"name": name, "arguments": given}}


def _joined(texts: list[str]) -> str:
    """Texts with blank lines between them, and none before the first."""
    while texts and not texts[0]:
        del texts[0]
    return "\n\n".join(texts)
