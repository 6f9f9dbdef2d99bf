"""The typed layer over the encoder: what a conversation may hold, checked before it is encoded.

The drop-in functions take what the release takes and lose what the release loses. Here a field that
would be lost, or that the layout cannot carry, is an error that names message and field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

from dsv4.protocol.constants import TASKS
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.turns import ROLES

Task = Literal["action", "query", "authority", "domain", "title", "read_url"]


class Part(TypedDict):
    """A part of a content: only those of type "text" reach the model as they are."""

    type: str
    text: NotRequired[str]


class Function(TypedDict):
    """A function that was called; `arguments` is JSON text or an object."""

    name: str
    arguments: NotRequired[str | dict[str, Any] | None]


class ToolCall(TypedDict):
    """A call in an assistant's message; tool messages answer it by its id."""

    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: Function


class FunctionSchema(TypedDict):
    """A function that may be called; `parameters` is a JSON schema."""

    name: str
    description: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]
    strict: NotRequired[bool | None]


class Tool(TypedDict):
    """A tool that is offered."""

    type: NotRequired[Literal["function"]]
    function: FunctionSchema


class SystemMessage(TypedDict):
    """Instructions, and what the model may call and must keep to."""

    role: Literal["system", "developer"]
    content: str | list[Part]
    tools: NotRequired[list[Tool]]
    response_format: NotRequired[dict[str, Any] | None]
    task: NotRequired[Task]


class UserMessage(TypedDict):
    """What a user says. `task` asks for a quick instruction in place of a reply."""

    role: Literal["user"]
    content: str | list[Part]
    task: NotRequired[Task]


class AssistantMessage(TypedDict):
    """A reply. `wo_eos` leaves it open, to be continued."""

    role: Literal["assistant"]
    content: NotRequired[str | list[Part] | None]
    reasoning_content: NotRequired[str | None]
    tool_calls: NotRequired[list[ToolCall] | None]
    wo_eos: NotRequired[bool]
    task: NotRequired[Task]


class ToolMessage(TypedDict):
    """The result of a call."""

    role: Literal["tool"]
    content: str | list[Part]
    tool_call_id: NotRequired[str]


class ReminderMessage(TypedDict):
    """What the model is to be reminded of, last."""

    role: Literal["latest_reminder"]
    content: str | list[Part]


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage | ReminderMessage

_ONLY = {  # field → the roles that can carry it
    "reasoning_content": ("assistant",),
    "tool_calls": ("assistant",),
    "wo_eos": ("assistant",),
    "tools": ("system", "developer"),
    "response_format": ("system", "developer"),
    "task": ("system", "developer", "user", "assistant"),
}


def validate(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The same messages, if they can be encoded without loss.

    Fields that are not of the protocol are left alone. Raises ProtocolError, which begins with the
    path of the field: `messages[2].tool_calls[0].function.name`.
    """
    _items(messages, "messages")
    opener = None  # index of the message that opened the turn of users and tools
    for index, message in enumerate(messages):
        _check(message, f"messages[{index}]")
        if message["role"] not in ("user", "tool"):
            opener = None
            continue
        asks = message.get("task") is not None
        if opener is not None and message["role"] == "user":
            if messages[opener].get("task") is not None:
                opener = None
            elif asks:
                raise ProtocolError(
                    f"messages[{index}].task: the message joins the turn of messages[{opener}],"
                    " where its task would be lost: put it on that message, or join the texts"
                )
        opener = index if opener is None else opener
    return cast("list[Message]", list(messages))


def _check(message: Any, where: str) -> None:
    if not isinstance(message, Mapping):
        raise ProtocolError(f"{where} = {message!r}: must be an object with a role")
    role = message.get("role")
    if role not in ROLES:
        raise ProtocolError(f"{where}.role = {role!r}: must be one of {', '.join(ROLES)}")
    for field, roles in _ONLY.items():
        if message.get(field) is not None and role not in roles:
            raise ProtocolError(f"{where}.{field}: belongs to {' or '.join(roles)}, not to {role}")
    if role != "assistant" or message.get("content") is not None:
        _check_content(message.get("content"), f"{where}.content")
    if role == "developer" and not message["content"]:
        raise ProtocolError(f"{where}.content: a developer message needs text")
    for field, kind in (("reasoning_content", str), ("tool_call_id", str), ("wo_eos", bool)):
        if not isinstance(message.get(field), kind | None):
            raise ProtocolError(f"{where}.{field} = {message[field]!r}: must be {kind.__name__}")
    if message.get("task") is not None and message["task"] not in tuple(TASKS):
        raise ProtocolError(
            f"{where}.task = {message['task']!r}: must be one of {', '.join(TASKS)}"
        )
    for number, call in enumerate(_list(message, "tool_calls", where)):
        _check_call(call, f"{where}.tool_calls[{number}]")
    for number, tool in enumerate(_list(message, "tools", where)):
        _check_tool(tool, f"{where}.tools[{number}]")


def _check_content(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise ProtocolError(f"{where} = {content!r}: must be text or a list of parts")
    for number, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise ProtocolError(f"{where}[{number}] = {part!r}: must be an object with a type")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise ProtocolError(f"{where}[{number}].text = {part.get('text')!r}: must be text")


def _list(message: Mapping[str, Any], field: str, where: str) -> Sequence[Any]:
    value = message.get(field)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ProtocolError(f"{where}.{field} = {value!r}: must be a list")
    return value


def _check_call(call: Any, where: str) -> None:
    function = _check_function(call, where)
    arguments = function.get("arguments")
    if not isinstance(arguments, str | Mapping | None):
        raise ProtocolError(
            f"{where}.function.arguments = {arguments!r}: must be JSON text or an object"
        )
    if not isinstance(call.get("id"), str | None):
        raise ProtocolError(f"{where}.id = {call['id']!r}: must be text")


def _check_function(value: Any, where: str) -> Mapping[str, Any]:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping):
        raise ProtocolError(f"{where}.function = {function!r}: must be an object with a name")
    name = function.get("name")
    if not isinstance(name, str) or not name or '"' in name:
        raise ProtocolError(f"{where}.function.name = {name!r}: must be text without a quote")
    return function


def _check_tool(tool: Any, where: str) -> Mapping[str, Any]:
    function = _check_function(tool, where)
    schema = function.get("parameters")
    if not isinstance(schema, Mapping | None):
        raise ProtocolError(f"{where}.function.parameters = {schema!r}: must be a JSON schema")
    return function


def check_tools(tools: Any) -> list[Mapping[str, Any]]:
    """The functions of OpenAI's tools. Raises ProtocolError."""
    return [_check_tool(tool, f"tools[{i}]") for i, tool in enumerate(_items(tools, "tools"))]


def properties_of(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schemas of a function's parameters by name; none if it does not list them."""
    schema = function.get("parameters")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _items(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ProtocolError(f"{where}: must be a list, not {value!r}")
    return value
