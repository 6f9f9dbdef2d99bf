"""What a stream parser yields, and the message that the deltas add up to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Reasoning(NamedTuple):
    """A piece of reasoning."""

    text: str


class Content(NamedTuple):
    """A piece of the answer."""

    text: str


class CallStart(NamedTuple):
    """Tool call number `call`, counted from 0, begins."""

    call: int
    name: str


class CallArguments(NamedTuple):
    """A piece of its arguments; all pieces joined are one JSON object, or the beginning of one."""

    call: int
    text: str


class CallEnd(NamedTuple):
    """The call is whole; a completion that breaks off inside a call has no such delta."""

    call: int


class End(NamedTuple):
    """The end-of-sentence token was read."""


Delta = Reasoning | Content | CallStart | CallArguments | CallEnd | End


class ErrorRecord(NamedTuple):
    """A departure from the layout that tolerant reading met: its kind, place and text."""

    kind: str
    offset: int
    text: str


def message_of(deltas: Iterable[Delta]) -> dict[str, Any]:
    """The assistant's message in OpenAI's form; calls carry no id."""
    reasoning: list[str] = []
    content: list[str] = []
    calls: dict[int, tuple[str, list[str]]] = {}
    for delta in deltas:
        if isinstance(delta, Reasoning):
            reasoning.append(delta.text)
        elif isinstance(delta, Content):
            content.append(delta.text)
        elif isinstance(delta, CallStart):
            calls[delta.call] = (delta.name, [])
        elif isinstance(delta, CallArguments):
            calls[delta.call][1].append(delta.text)
    return {
        "role": "assistant",
        "content": "".join(content),
        "reasoning_content": "".join(reasoning),
        "tool_calls": [
            {"type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
            for name, pieces in calls.values()
        ],
    }
