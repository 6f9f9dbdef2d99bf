"""A conversation as the model reads it.

BOS [effort prefix] system  (<User> turn <Assistant> (<think> reasoning)? </think> reply EOS)…

A user turn is what users and tools said since the last reply, joined by blank lines. Reasoning
before the last user turn is dropped unless some message carries tools. Source: the release's
encoding folder; report, section 5.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from dsv4.protocol.constants import (
    ASSISTANT,
    BOS,
    DSML,
    EFFORT_PREFIXES,
    END_THINK,
    EOS,
    LATEST_REMINDER,
    RESPONSE_FORMAT,
    TASKS,
    THINK,
    TOOLS_BEGIN,
    TOOLS_END,
    USER,
)
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.segments import Own, Segment, TextEncoder, Wire, to_ids
from dsv4.protocol.turns import (
    Message,
    Turn,
    content_text,
    is_object,
    last_user,
    order_results,
    turns_of,
)


def encode_messages(
    messages: Sequence[Message],
    thinking_mode: str,
    context: Sequence[Message] | None = None,
    drop_thinking: bool = True,
    add_default_bos_token: bool = True,
    reasoning_effort: str | None = None,
    revision: str = "2026-04",
) -> str:
    """The prompt of a conversation, byte for byte the release's.

    `thinking_mode` is "chat" or "thinking". After a non-empty `context` (messages that were encoded
    before) only what `messages` add is returned. `reasoning_effort` chooses a prefix: None, high or
    max; revision "2026-07" has low too. Raises ProtocolError naming message index and field.
    """
    return _wire(
        messages,
        thinking_mode,
        context,
        drop_thinking,
        add_default_bos_token,
        reasoning_effort,
        revision,
    ).text()


def encode_segments(
    messages: Sequence[Message],
    thinking_mode: str,
    *,
    trusted: Collection[str] = (),
    **options: Any,
) -> list[Segment]:
    """The same prompt, with control tokens told from text that merely spells them.

    `options` are the further ones of `encode_messages`. `trusted`: control strings that count in
    the messages' own text too, for a caller who put them there and has seen to it that nobody else
    did, as with `EXTRACTED_URL` in a read_url turn.
    """
    return _wire(messages, thinking_mode, **options).segments(trusted)


def encode_ids(
    messages: Sequence[Message], tokenizer: TextEncoder, thinking_mode: str, **options: Any
) -> list[int]:
    """Token ids of a conversation; `options` are those of `encode_segments`.

    No message can produce a special id: text that spells a control token is tokenised as text.
    """
    return to_ids(encode_segments(messages, thinking_mode, **options), tokenizer)


_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder(ensure_ascii=False).encode
CALLS_OPEN = Own(f"\n\n<{DSML}tool_calls>\n")
_CALLS_END = Own(f"</{DSML}tool_calls>")
_INVOKE = Own(f'<{DSML}invoke name="')
_INVOKED, _INVOKED_WITHOUT = Own('">\n'), Own('">\n\n')
_INVOKE_END = Own(f"</{DSML}invoke>\n")
_PARAMETER, _PARAMETER_END = Own(f'<{DSML}parameter name="'), Own(f"</{DSML}parameter>\n")
_STRING, _OTHER = Own('" string="true">'), Own('" string="false">')
USER_OPEN, REMINDER, END, BLANK_LINE = Own(USER), Own(LATEST_REMINDER), Own(EOS), Own("\n\n")
RESULT, RESULT_END = Own("<tool_result>"), Own("</tool_result>")
REASONED = Own(END_THINK)
OPENINGS = {True: Own(ASSISTANT + THINK), False: Own(ASSISTANT + END_THINK)}  # does it reason?
BOS_TOKEN, _TOOLS, _TOOLS_END = Own(BOS), Own("\n\n" + TOOLS_BEGIN), Own(TOOLS_END)
_FORMAT = Own("\n\n" + RESPONSE_FORMAT)
_TASK_TOKENS = {task: Own(token) for task, token in TASKS.items()}


# ---- rendering --------------------------------------------------------------------------------


def _wire(
    messages: Sequence[Message],
    thinking_mode: str,
    context: Sequence[Message] | None = None,
    drop_thinking: bool = True,
    add_default_bos_token: bool = True,
    reasoning_effort: str | None = None,
    revision: str = "2026-04",
) -> Wire:
    context = context or ()
    prefix = effort_prefix(reasoning_effort, revision)
    if thinking_mode not in ("chat", "thinking"):
        raise ProtocolError(f"thinking_mode = {thinking_mode!r}: must be chat or thinking")
    thinking = thinking_mode == "thinking"
    before, turns = turns_of(context), turns_of(messages)
    order_results(before)
    # the release orders the new results by the context as it was given
    order_results([*(Turn(m["role"], m, 0, []) for m in context), *turns])
    every = [*before, *turns]
    drop = drop_thinking and not any(turn.message.get("tools") for turn in every)
    skip = len(before)
    if thinking and drop:
        last = last_user(every)
        dropped = {i for i in range(last) if every[i].role == "developer"}
        skip -= sum(i < skip for i in dropped)
        every = [turn for i, turn in enumerate(every) if i not in dropped]
    wire, last = Wire(), last_user(every)
    if not context and add_default_bos_token:
        wire.put(BOS_TOKEN)
    if not context and thinking and every:
        wire.put(Own(prefix))
    for i in range(skip, len(every)):
        turn, previous = every[i], every[i - 1] if i else None
        if turn.role == "assistant":
            answers_task = previous is not None and previous.message.get("task") is not None
            reasons = thinking and not answers_task and (not drop or i > last)
            _put_assistant(wire, turn, reasons)
        else:
            _RENDER[turn.role](wire, turn)
        if i + 1 == len(every) or every[i + 1].role in ("assistant", "latest_reminder"):
            _put_opening(wire, turn, thinking, thinking and (not drop or i >= last))
    return wire


def effort_prefix(effort: str | None, revision: str = "2026-04") -> str:
    """What stands before the first message in thinking mode. Raises ProtocolError."""
    if revision not in tuple(EFFORT_PREFIXES):
        raise ProtocolError(f"revision = {revision!r}: must be {' or '.join(EFFORT_PREFIXES)}")
    prefixes = EFFORT_PREFIXES[revision]
    if effort not in tuple(prefixes):
        names = ", ".join(name or "None" for name in prefixes)
        raise ProtocolError(f"reasoning_effort = {effort!r}: revision {revision} has {names}")
    return prefixes[effort]


def _put_system(wire: Wire, turn: Turn) -> None:
    wire.say(content_text(turn.message.get("content") or ""))
    _put_extras(wire, turn)


def _put_user(wire: Wire, turn: Turn) -> None:
    wire.put(USER_OPEN)
    for number, block in enumerate(turn.blocks):
        if number:
            wire.put(BLANK_LINE)
        if block.result:
            wire.put(RESULT)
        wire.say(block.text)
        if block.result:
            wire.put(RESULT_END)


def _put_developer(wire: Wire, turn: Turn) -> None:
    content = content_text(turn.message.get("content") or "")
    if not content:
        raise ProtocolError(f"messages[{turn.first}].content: a developer message needs text")
    wire.put(USER_OPEN)
    wire.say(content)
    _put_extras(wire, turn)


def _put_reminder(wire: Wire, turn: Turn) -> None:
    wire.put(REMINDER)
    wire.say(content_text(turn.message.get("content")))


_RENDER: dict[str, Callable[[Wire, Turn], None]] = {
    "system": _put_system,
    "user": _put_user,
    "developer": _put_developer,
    "latest_reminder": _put_reminder,
}


def _put_extras(wire: Wire, turn: Turn) -> None:
    """The tool preamble and the response format of a system or developer message."""
    tools = turn.message.get("tools")
    if tools:
        where = f"messages[{turn.first}].tools"
        put_tools(wire, [_function(tool, f"{where}[{i}]") for i, tool in enumerate(tools)], where)
    response_format = turn.message.get("response_format")
    if response_format:
        put_schema(wire, response_format, f"messages[{turn.first}].response_format")


def _function(tool: Any, where: str) -> Any:
    if not isinstance(tool, Mapping) or "function" not in tool:
        raise ProtocolError(f'{where}: has no "function"')
    return tool["function"]


def put_tools(wire: Wire, functions: Sequence[Any], where: str = "tools") -> None:
    """The tool preamble. Raises ProtocolError for what is no JSON."""
    lines = [to_json(f, f"{where}[{i}].function") for i, f in enumerate(functions)]
    wire.put(_TOOLS)
    wire.say("\n".join(lines))
    wire.put(_TOOLS_END)


def put_schema(wire: Wire, schema: Any, where: str) -> None:
    """What asks for a reply by a schema. Raises ProtocolError for what is no JSON."""
    wire.put(_FORMAT)
    wire.say(to_json(schema, where))


def _put_assistant(wire: Wire, turn: Turn, reasons: bool) -> None:
    message = turn.message
    if reasons:
        wire.say(message.get("reasoning_content") or "")
        wire.put(REASONED)
    wire.say(content_text(message.get("content") or ""))
    calls = message.get("tool_calls")
    if calls:
        put_calls(wire, calls, turn.first)
    if not message.get("wo_eos"):
        wire.put(END)


def put_calls(wire: Wire, calls: Sequence[Any], message: int = 0) -> None:
    """A block of calls. Raises ProtocolError for a call without a function and its name."""
    put, say = wire.put, wire.say
    put(CALLS_OPEN)
    for number, call in enumerate(calls):
        function = call.get("function") if is_object(call) else None
        if not is_object(function) or "name" not in function:
            where = f"messages[{message}].tool_calls[{number}].function"
            raise ProtocolError(f"{where}: must have a name and arguments")
        put(_INVOKE)
        say(f"{function['name']}")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = _arguments(arguments)
        elif not is_object(arguments):
            arguments = {"arguments": _Json(arguments)}
        put(_INVOKED if arguments else _INVOKED_WITHOUT)
        for key, value in arguments.items():
            put(_PARAMETER)
            say(key if isinstance(key, str) else f"{key}")
            if isinstance(value, str):
                put(_STRING)
                say(value)
            else:
                put(_OTHER)
                say(_value(value, message, number))
            put(_PARAMETER_END)
        put(_INVOKE_END)
    put(_CALLS_END)


class _Json(NamedTuple):
    """A value in place of an object of arguments: written as JSON, even a string."""

    value: Any


def _arguments(text: str) -> Mapping[str, Any]:
    """Text that is not JSON goes whole under `arguments`, as a string; JSON that is no object goes
    there too, as JSON."""
    try:
        value = _decode(text)
    except (ValueError, RecursionError):
        return {"arguments": text}
    return value if type(value) is dict else {"arguments": _Json(value)}


def _value(value: Any, message: int, number: int) -> str:
    value = value.value if type(value) is _Json else value
    kind = type(value)
    if kind is int or kind is bool:
        return repr(value) if kind is int else "true" if value else "false"
    return to_json(value, f"messages[{message}].tool_calls[{number}].function.arguments")


def to_json(value: Any, where: str) -> str:
    """JSON as the protocol writes it: `, ` and `: `, non-ASCII kept."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{where}: cannot be written as JSON: {error}") from error


def _put_opening(wire: Wire, turn: Turn, thinking: bool, reasons: bool) -> None:
    """What opens the reply to a turn: a task's token, or the assistant's role."""
    task = turn.message.get("task")
    if task is not None:
        put_task(wire, task, thinking, f"messages[{turn.first}].task")
    elif turn.role in ("user", "developer"):
        wire.put(OPENINGS[reasons])


def put_task(wire: Wire, task: str, thinking: bool, where: str) -> None:
    """The token that asks for a quick instruction; an action is asked of the assistant."""
    if task not in tuple(TASKS):
        raise ProtocolError(f"{where} = {task!r}: must be one of {', '.join(TASKS)}")
    if task == "action":
        wire.put(OPENINGS[thinking])
    wire.put(_TASK_TOKENS[task])
