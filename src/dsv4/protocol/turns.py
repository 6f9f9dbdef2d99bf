"""The turns of a conversation: what users and tools say between two replies is one turn.

A turn is made of blocks, texts and results of calls; its results stand in the order of the calls
that they answer. Source: the release's encoding folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from dsv4.protocol.errors import ProtocolError

ROLES = ("system", "user", "assistant", "tool", "developer", "latest_reminder")
Message = Mapping[str, Any]


class Block(NamedTuple):
    """A part of a user turn: text, or the result of a tool call."""

    text: str
    result: bool = False
    call_id: str | int = ""


class Turn(NamedTuple):
    """A message, or several of users and tools; `first` is the index of its first message."""

    role: str
    message: Message
    first: int
    blocks: list[Block]


_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "tool_calls": (list, tuple, _NONE),
    "tools": (list, tuple, _NONE),
    "task": (str, _NONE),
    "reasoning_content": (str, _NONE),
    "tool_call_id": (str, int, _NONE),
}


def is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether it is a JSON object; dicts, which nearly all are, are seen at once."""
    return type(value) is dict or isinstance(value, Mapping)


def _check_shape(message: Any, index: int) -> None:
    """What the code below relies on; `messages.validate` checks more."""
    if not is_object(message):
        raise ProtocolError(f"messages[{index}] = {message!r}: must be an object with a role")
    if message.get("role") not in ROLES:
        raise ProtocolError(
            f"messages[{index}].role = {message.get('role')!r}: must be one of {', '.join(ROLES)}"
        )
    for name, value in message.items():
        kinds = _KINDS.get(name)
        if kinds is not None and not isinstance(value, kinds):
            raise ProtocolError(
                f"messages[{index}].{name} = {value!r}: must be a {kinds[0].__name__}"
            )
    content = message.get("content")
    if not isinstance(content, list):
        return
    for number, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("text", ""), str):
            raise ProtocolError(
                f"messages[{index}].content[{number}] = {part!r}: must be an object with a type"
                " and text"
            )


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """Users' and tools' messages merged, every other a turn of its own. Raises ProtocolError."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ProtocolError(f"messages: must be a list, not {type(messages).__name__}")
    turns: list[Turn] = []
    open_turn: Turn | None = None
    for index, message in enumerate(messages):
        _check_shape(message, index)
        role = message["role"]
        if role != "user" and role != "tool":
            open_turn = None
            turns.append(Turn(role, message, index, []))
            continue
        if open_turn and role == "user" and open_turn.message.get("task") is not None:
            open_turn = None  # a task ends its turn for users, not for tools
        if open_turn is None:
            opener = {"task": message["task"]} if role == "user" and "task" in message else {}
            # its other extras are lost, as in the release
            open_turn = Turn("user", opener, index, [])
            turns.append(open_turn)
        open_turn.blocks.append(_block(role, message, index))
    return turns


def _block(role: str, message: Message, index: int) -> Block:
    content = message.get("content", "")
    if role == "tool":
        return Block(content_text(content), True, message.get("tool_call_id") or "")
    if not isinstance(content, (str, list)):
        raise ProtocolError(f"messages[{index}].content = {content!r}: must be text or parts")
    return Block(content_text(content))


def content_text(content: Any) -> str:
    """Text as it is; of a list of typed parts the text parts, joined by a blank line."""
    if type(content) is str:
        return content
    if not isinstance(content, list):
        return f"{content}"
    return "\n\n".join(
        part.get("text", "") if part.get("type") == "text" else f"[Unsupported {part.get('type')}]"
        for part in content
    )


def order_results(turns: Iterable[Turn]) -> None:
    """Tool results of a turn in the order of the preceding calls; other blocks keep their place."""
    order: dict[str | int, int] = {}
    for turn in turns:
        if turn.role == "assistant":
            calls = turn.message.get("tool_calls")
            if calls:
                order = {name: place for place, name in enumerate(map(_call_id, calls)) if name}
            continue
        if len(turn.blocks) < 2 or not order:
            continue
        results = [block for block in turn.blocks if block.result]
        if len(results) > 1:
            ordered = iter(sorted(results, key=lambda block: order.get(block.call_id, 0)))
            turn.blocks[:] = [next(ordered) if block.result else block for block in turn.blocks]


def _call_id(call: Any) -> str | int | None:
    if not is_object(call):
        return None
    function = call.get("function")
    name = call.get("id") or (function.get("id") if is_object(function) else None)
    return name if isinstance(name, str | int) else None


def last_user(turns: Sequence[Turn]) -> int:
    """Index of the last turn that a user or developer opened, -1 if none did."""
    found = (i for i in reversed(range(len(turns))) if turns[i].role in ("user", "developer"))
    return next(found, -1)
