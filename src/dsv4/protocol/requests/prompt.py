"""The prompt of a request.

BOS [effort prefix] system [tools] [format]  (<User> turn | <latest_reminder> text | reply EOS)…
then the reply's opening: <Assistant> (<think> | </think>) [prefix | block of calls]

A reply is <Assistant> [<think> reasoning] </think> content [calls]; its reasoning stays only while
tools are in force. In contrast to the letter of the release every reply is opened, and the last one
always, whatever stands before it. Source: DeepSeek's API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dsv4.protocol.constants import JSON_OBJECT
from dsv4.protocol.encode import (
    BLANK_LINE,
    BOS_TOKEN,
    CALLS_OPEN,
    END,
    OPENINGS,
    REASONED,
    REMINDER,
    RESULT,
    RESULT_END,
    USER_OPEN,
    effort_prefix,
    put_calls,
    put_schema,
    put_task,
    put_tools,
)
from dsv4.protocol.segments import Own, Spelt, Wire

_JSON_OBJECT, _NEXT_RESULT = Own("\n\n" + JSON_OBJECT), Own("\n\n<tool_result>")


Spelling = Callable[[Mapping[str, Any], bool], Spelt | None]


class Conversation(NamedTuple):
    """What goes into a prompt. The last message is a prefix if the reply `continues` it."""

    system: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    response_format: Mapping[str, Any] | None
    thinking: bool
    effort: str | None
    revision: str
    continues: bool
    must_call: bool


def put_conversation(
    wire: Wire,
    talk: Conversation,
    *,
    since: int = 0,
    bos: bool = True,
    opened: bool = True,
    keep_reasoning: bool = False,
    spelt: Spelling | None = None,
) -> None:
    """Writes the prompt.

    `since`: only what messages[since:] add; `opened`: with the reply's opening; `keep_reasoning`:
    that of earlier replies, without tools too; `spelt`: asked for each reply, how the model spelt
    it: what follows <think> where the reasoning stays, else what follows </think>. Raises
    ProtocolError for an effort or revision that is not known.
    """
    prefix = effort_prefix(talk.effort, talk.revision)
    if not since:
        if bos:
            wire.put(BOS_TOKEN)
        if talk.thinking:
            wire.put(Own(prefix))
        _put_system(wire, talk)
    last = len(talk.messages) - talk.continues
    keeps = talk.thinking and (keep_reasoning or bool(talk.tools))
    _put_messages(wire, talk.messages[:last], since, keeps, talk.thinking, spelt)
    if opened and not (last and talk.messages[last - 1].get("task") is not None):
        _put_opening(wire, talk)


def _put_system(wire: Wire, talk: Conversation) -> None:
    wire.say(talk.system)
    if talk.tools:
        put_tools(wire, [_schema(tool["function"]) for tool in talk.tools])
    if talk.response_format is None:
        return
    if talk.response_format["type"] == "json_object":
        wire.put(_JSON_OBJECT)
    elif talk.response_format["type"] == "json_schema":
        put_schema(wire, talk.response_format["schema"], "response_format")


def _schema(function: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": function.get("parameters") or {},
    }


def _put_messages(
    wire: Wire,
    messages: Sequence[Mapping[str, Any]],
    since: int,
    keeps: bool,
    thinking: bool,
    spelt: Spelling | None,
) -> None:
    turn: list[Mapping[str, Any]] = []  # what users and tools said since the last reply
    order: dict[str, int] = {}
    task = None
    for index, message in enumerate(messages):
        role = message["role"]
        if turn and (role not in ("user", "tool") or index == since or task is not None):
            _put_turn(wire, turn, order)
            turn = []
        calls = message.get("tool_calls")
        if calls:
            order = {call["id"]: place for place, call in enumerate(calls)}
        if task is not None and index > since:
            put_task(wire, task, thinking, f"messages[{index - 1}].task")
        if index < since:
            pass
        elif role == "assistant":
            known = spelt(message, keeps) if spelt is not None and task is None else None
            if known is None:
                _put_reply(wire, message, keeps, task is None)
            else:
                wire.put(OPENINGS[keeps])
                wire.say(known)
                wire.put(END)
        elif role == "latest_reminder":
            wire.put(REMINDER)
            wire.say(message["content"])
        else:
            turn.append(message)
        task = message.get("task")
    if turn:
        _put_turn(wire, turn, order)
    if task is not None:
        put_task(wire, task, thinking, f"messages[{len(messages) - 1}].task")


def _put_turn(wire: Wire, turn: list[Mapping[str, Any]], order: Mapping[str, int]) -> None:
    """Texts side by side are one, without the empty ones; results stand in their calls' order."""
    wire.put(USER_OPEN)
    if len(turn) == 1 and turn[0]["role"] == "user":
        wire.say(turn[0]["content"])
        return
    results = [message for message in turn if message["role"] == "tool"]
    if len(results) > 1 and order:
        results.sort(key=lambda message: order.get(message.get("tool_call_id", ""), 0))
    ordered, texts, first = iter(results), list[str](), True
    for message in [*turn, None]:
        if message is not None and message["role"] == "user":
            texts.append(message["content"])
            continue
        if texts:
            if not first:
                wire.put(BLANK_LINE)
            wire.say("\n\n".join(filter(None, texts)))
            texts, first = [], False
        if message is not None:
            wire.put(RESULT if first else _NEXT_RESULT)
            wire.say(next(ordered)["content"])
            wire.put(RESULT_END)
            first = False


def _put_reply(wire: Wire, message: Mapping[str, Any], keeps: bool, opens: bool) -> None:
    if opens and keeps:
        wire.put(OPENINGS[True])
        wire.say(message.get("reasoning_content") or "")
        wire.put(REASONED)
    elif opens:
        wire.put(OPENINGS[False])
    wire.say(message["content"])
    calls = message.get("tool_calls")
    if calls:
        put_calls(wire, calls)
    wire.put(END)


def _put_opening(wire: Wire, talk: Conversation) -> None:
    wire.put(OPENINGS[talk.thinking])
    if talk.must_call:
        wire.put(CALLS_OPEN)
    if not talk.continues:
        return
    prefix = talk.messages[-1]
    if talk.thinking:
        wire.say(prefix.get("reasoning_content") or "")
        if prefix["content"]:
            wire.put(REASONED)
    wire.say(prefix["content"])
