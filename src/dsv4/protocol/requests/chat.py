"""Chat Completions: a request's body to a `Request`.

Beside DeepSeek's fields a message may carry the encoder's own: `tools` and `response_format` on a
system message, `task`, and `wo_eos`, which is a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsv4.protocol.constants import TASKS, UNSUPPORTED
from dsv4.protocol.errors import RequestError
from dsv4.protocol.quick import check_place
from dsv4.protocol.requests import common, fields
from dsv4.protocol.requests.history import (
    Pending,
    check_reasoning,
    object_of,
    parts_text,
    reminder,
    without_billing,
)
from dsv4.protocol.requests.options import DEFAULTS, RequestOptions
from dsv4.protocol.requests.request import Asked, Constraint, Request
from dsv4.protocol.requests.tools import (
    Choice,
    Force,
    Offer,
    check_name,
    check_strict,
    constraint,
    in_force,
    read_format,
)

ROLES = ("system", "developer", "user", "assistant", "tool", "latest_reminder")
_FIXED = dict.fromkeys(("image_url", "file"), UNSUPPORTED["image"])
_FORMATS = ("text", "json_object", "json_schema", "regex")


def from_openai(body: Any, options: RequestOptions = DEFAULTS) -> Request:
    """A Chat Completions request, or a bare list of its messages. Raises RequestError."""
    body = common.body_of(body, "messages")
    scalars = _Scalars(body)
    fields.refuse(body, () if options.lenient else ("functions", "function_call"))
    model = common.read_model(body, options)
    thought = common.read_thinking(body, common.read_effort(body, "reasoning_effort"), options)
    offers = [
        _offer(tool, f"tools[{i}]", options) for i, tool in enumerate(fields.items(body, "tools"))
    ]
    choice = _choice(body.get("tool_choice"))
    given = fields.inner(body, "response_format")
    fields.word(given, "type", _FORMATS, "response_format")
    history = _History(options)
    history.read(body.get("messages"))
    offers = [*history.offers, *offers]
    if options.need_reasoning and thought.on:
        check_reasoning(history.messages, bool(offers), "reasoning_content", "messages")
    if given.get("type") == "json_object" and not options.lenient:
        common.check_json_word(
            [*history.system, *(message["content"] for message in history.messages)],
            "Prompt must contain the word 'json' in some form to use 'response_format' of type"
            " 'json_object'.",
            "response_format",
        )
    force = in_force(offers, choice, thought.on, options, needs_schema=False)
    _check_prefix(history, given, bool(offers), options)
    scalars.check()
    of_format = _format(given, history, force, body, options)
    sampled = common.sampling(
        scalars.asked(),
        thought if history.task is None else thought._replace(mode="chat"),
        force.tools,
        options,
        limit=scalars.limit_name,
    )
    return common.request_of(
        "chat",
        model,
        (history.system, history.messages),
        thought,
        force,
        sampled,
        options,
        response_format=of_format[0],
        constraint=constraint(force, of_format[1]),
        stop=scalars.stop,
        stream=scalars.stream,
        include_usage=scalars.include_usage,
        continues=history.prefix,
    )


def _offer(tool: Any, path: str, options: RequestOptions) -> Offer:
    tool = fields.mapping(tool, path)
    if tool.get("type") != "function" and not (options.lenient and tool.get("type") is None):
        raise fields.wrong(tool.get("type"), f"{path}.type", '"function"')
    where = f"{path}.function"
    if tool.get("function") is None:
        raise fields.missing(path, "function")
    function = fields.mapping(tool["function"], where)
    name = fields.needed(function, "name", where)
    description = fields.text(function, "description", where)
    strict = fields.flag(function, "strict", where)
    check_name(name, where, options)
    parameters = function.get("parameters")
    return Offer(name, description, parameters, strict, where, f"{where}.parameters")


def _choice(given: Any) -> Choice:
    if given is None:
        return "auto"
    if isinstance(given, str) and given in ("none", "auto", "required"):
        return given
    named = given.get("function") if isinstance(given, Mapping) else None
    name = named.get("name") if isinstance(named, Mapping) else None
    if not isinstance(name, str) or given.get("type") != "function":
        raise fields.wrong(given, "tool_choice", "none, auto, required, or name a function")
    return {"type": "function", "function": {"name": name}}


class _Scalars:
    """The fields that are single values: types on reading, ranges when asked to check."""

    def __init__(self, body: Mapping[str, Any]):
        self.temperature, self.top_p = common.read_numbers(body)
        self.limit = fields.integer(body, "max_tokens")
        self.limit_name = "max_tokens"
        if self.limit is None:
            self.limit_name = "max_completion_tokens"
            self.limit = fields.integer(body, "max_completion_tokens")
        self.seed = fields.integer(body, "seed")
        self.n = fields.integer(body, "n")
        self.penalties = {
            name: fields.number(body, name) for name in ("presence_penalty", "frequency_penalty")
        }
        fields.flag(body, "parallel_tool_calls")
        self.logprobs = fields.flag(body, "logprobs") or False
        self.top_logprobs = fields.integer(body, "top_logprobs")
        self._stop = common.read_stop(body, "stop")
        self.stop: tuple[str, ...] = ()
        self.stream = common.read_stream(body)
        self.streams = body.get("stream_options")
        given = fields.inner(body, "stream_options")
        self.include_usage = fields.flag(given, "include_usage", "stream_options") or False

    def check(self) -> None:
        """Stop strings and stream options."""
        self.stop = common.check_stop(self._stop)
        if self.streams is not None and not self.stream:
            raise RequestError(
                "stream_options should be set along with stream = true", "stream_options"
            )

    def asked(self) -> Asked:
        """Sampling as asked; one choice, and penalties within bounds."""
        if self.n not in (None, 1):
            raise RequestError("Invalid n value (currently only n = 1 is supported)", "n")
        for name, value in self.penalties.items():
            common.check_range(value, name, -2, 2, "[-2, 2]")
        return Asked(
            self.temperature, self.top_p, self.seed, self.limit, self.logprobs, self.top_logprobs
        )


class _History:
    """The messages as they are gathered: system texts apart, the others in the encoder's form."""

    def __init__(self, options: RequestOptions):
        self._options, self._pending = options, Pending(options)
        self.system: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.offers: list[Offer] = []
        self.schema: Any = None
        self.prefix = False
        self.called = False

    def read(self, messages: Any) -> None:
        """All messages of a request."""
        for index, (message, path) in enumerate(common.each_message(messages, self._options)):
            role = message.get("role")
            if role != "tool" and not self._pending.done:
                self._pending.settle()
            if role == "user":
                self._plain(message, path, "user")
            elif role == "assistant":
                self._assistant(message, path, last=index + 1 == len(messages))
            elif role == "tool":
                self._tool(message, path)
            elif role in ("system", "developer"):
                self._system(message, path)
            elif role == "latest_reminder":
                self._plain(message, path, role)
            else:
                raise fields.wrong(role, f"{path}.role", f"one of {', '.join(ROLES)}")
        self._pending.settle()
        if self.task is not None and not self._options.lenient:
            check_place(self.task, self.messages)

    @property
    def task(self) -> str | None:
        """The quick instruction that is asked in place of a reply."""
        return None if self.prefix or not self.messages else self.messages[-1].get("task")

    def _plain(self, message: Mapping[str, Any], path: str, role: str) -> None:
        content = message.get("content")
        if type(content) is not str:
            content = self._content(message, path)
        out = {"role": role, "content": content}
        if len(message) > 2:
            fields.text(message, "name", path)
            self._task(message, path, out)
        self.messages.append(out)

    def _content(self, message: Mapping[str, Any], path: str) -> str:
        content = message.get("content")
        if content is None and not self._options.lenient:
            raise fields.missing(path, "content")
        return parts_text("" if content is None else content, f"{path}.content", ("text",), _FIXED)

    def _system(self, message: Mapping[str, Any], path: str) -> None:
        text = without_billing(self._content(message, path))
        if self.messages and self._options.system_in_place:
            self.messages += reminder(text)
        else:
            self.system.append(text)
        fields.text(message, "name", path)
        for number, tool in enumerate(fields.items(message, "tools", path)):
            self.offers.append(_offer(tool, f"{path}.tools[{number}]", self._options))
        self.schema = message.get("response_format") or self.schema
        if message.get("task") is not None:
            raise RequestError("belongs on what a user or the assistant said", f"{path}.task")

    def _tool(self, message: Mapping[str, Any], path: str) -> None:
        call_id = fields.text(message, "tool_call_id", path)
        if call_id is None and not self._options.lenient:
            raise fields.missing(path, "tool_call_id")
        self._pending.answer(call_id, f"{path}.tool_call_id")
        content = message.get("content")
        if type(content) is not str:  # a tool that returned nothing
            content = parts_text(content or "", f"{path}.content", ("text",), _FIXED)
        self.messages.append({"role": "tool", "tool_call_id": call_id or "", "content": content})
        self.called = True

    def _assistant(self, message: Mapping[str, Any], path: str, last: bool) -> None:
        if not self._options.lenient:
            fields.refuse(message, ("function_call", "refusal", "audio"), path)
        content, calls = message.get("content"), message.get("tool_calls")
        if content is None and not calls and not self._options.lenient:
            if calls is not None:
                raise RequestError("is empty: leave it out", f"{path}.tool_calls")
            raise RequestError("Invalid assistant message: content or tool_calls must be set", path)
        if type(content) is not str:
            empty = "" if content is None else content
            content = parts_text(empty, f"{path}.content", ("text",), _FIXED)
        reasoning = message.get("reasoning_content")
        reasoning = message.get("reasoning") if reasoning is None else reasoning
        if reasoning is not None and type(reasoning) is not str:
            raise fields.wrong(reasoning, f"{path}.reasoning_content", "text")
        out = {"role": "assistant", "content": content, "reasoning_content": reasoning or ""}
        fields.text(message, "name", path)
        if fields.flag(message, "prefix", path) or fields.flag(message, "wo_eos", path):
            self.prefix = last
            if not last and not self._options.lenient:
                raise RequestError("only the last message can be a prefix", f"{path}.prefix")
        if calls is not None:
            self._calls(message, path, out)
        self._task(message, path, out)
        self.messages.append(out)

    def _calls(self, message: Mapping[str, Any], path: str, out: dict[str, Any]) -> None:
        where = f"{path}.tool_calls"
        calls = fields.items(message, "tool_calls", path)
        if not calls and not self._options.lenient:
            raise RequestError("is empty: leave it out", where)
        out["tool_calls"] = [self._call(call, f"{where}[{i}]") for i, call in enumerate(calls)]
        self.called = True

    def _call(self, call: Any, path: str) -> dict[str, Any]:
        call = fields.mapping(call, path)
        if call.get("type") != "function" and not self._options.lenient:
            raise fields.wrong(call.get("type"), f"{path}.type", '"function"')
        call_id = fields.text(call, "id", path)
        if call_id is None and not self._options.lenient:
            raise fields.missing(path, "id")
        function = call.get("function")
        if not isinstance(function, Mapping):
            raise fields.wrong(function, f"{path}.function", "an object with a name")
        name = function.get("name")
        if type(name) is not str or not name or '"' in name:
            raise fields.wrong(name, f"{path}.function.name", "text without a quote")
        given = function.get("arguments")
        if type(given) is str:
            given = object_of(given)
        elif given is None and self._options.lenient:
            given = {}
        elif not isinstance(given, Mapping):
            raise fields.wrong(given, f"{path}.function.arguments", "JSON text or an object")
        if call_id is not None:
            self._pending.call(call_id, f"{path}.id")
        return {"id": call_id or "", "function": {"name": name, "arguments": given}}

    def _task(self, message: Mapping[str, Any], path: str, out: dict[str, Any]) -> None:
        task = message.get("task")
        if task is None:
            return
        if not isinstance(task, str) or task not in TASKS:
            raise fields.wrong(task, f"{path}.task", f"one of {', '.join(TASKS)}")
        out["task"] = task


def _check_prefix(
    history: _History, given: Mapping[str, Any], offered: bool, options: RequestOptions
) -> None:
    if not history.prefix or options.lenient:
        return
    path = f"messages[{len(history.messages) - 1}].prefix"
    if given.get("type") == "json_object":
        raise RequestError("response_format json_object should not be used with prefix", path)
    if offered or history.called:
        raise RequestError("Function call should not be used with prefix", path)


def _format(
    given: Mapping[str, Any],
    history: _History,
    force: Force,
    body: Mapping[str, Any],
    options: RequestOptions,
) -> tuple[dict[str, Any] | None, Constraint | None]:
    stated = body.get("response_format") is not None
    check_strict(force.tools, "response_format" if stated else None, options)
    if not given:
        if history.schema is None:
            return None, None
        given = {"type": "json_schema", "json_schema": {"schema": history.schema}}
    inner = fields.inner(given, "json_schema", "response_format")
    return read_format(given, "response_format", inner, options)
