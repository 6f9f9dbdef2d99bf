"""A conversation as the model reads it.

BOS [effort prefix] system  (<User> turn <Assistant> (<think> reasoning)? </think> reply EOS)…

A user turn is what users and tools said since the last reply, joined by blank lines. Reasoning
before the last user turn is dropped unless some message carries tools. Source: the release's
encoding folder; report, section 5.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

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
from dsv4.protocol.segments import Segment, TextEncoder, Wire, to_ids
from dsv4.protocol.turns import Message, Turn, content_text, last_user, order_results, turns_of


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
        wire.put(BOS)
    if not context and thinking and every:
        wire.put(prefix)
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
    wire.put(USER)
    for number, block in enumerate(turn.blocks):
        if number:
            wire.put("\n\n")
        if block.result:
            wire.put("<tool_result>")
        wire.say(block.text)
        if block.result:
            wire.put("</tool_result>")


def _put_developer(wire: Wire, turn: Turn) -> None:
    content = content_text(turn.message.get("content") or "")
    if not content:
        raise ProtocolError(f"messages[{turn.first}].content: a developer message needs text")
    wire.put(USER)
    wire.say(content)
    _put_extras(wire, turn)


def _put_reminder(wire: Wire, turn: Turn) -> None:
    wire.put(LATEST_REMINDER)
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
        wire.put("\n\n" + TOOLS_BEGIN)
        where = f"messages[{turn.first}].tools"
        wire.say("\n".join(_schema(tool, f"{where}[{i}]") for i, tool in enumerate(tools)))
        wire.put(TOOLS_END)
    response_format = turn.message.get("response_format")
    if response_format:
        wire.put("\n\n" + RESPONSE_FORMAT)
        wire.say(_json(response_format, f"messages[{turn.first}].response_format"))


def _schema(tool: Any, where: str) -> str:
    if not isinstance(tool, Mapping) or "function" not in tool:
        raise ProtocolError(f'{where}: has no "function"')
    return _json(tool["function"], f"{where}.function")


def _put_assistant(wire: Wire, turn: Turn, reasons: bool) -> None:
    message = turn.message
    if reasons:
        wire.say(message.get("reasoning_content") or "")
        wire.put(END_THINK)
    wire.say(content_text(message.get("content") or ""))
    calls = message.get("tool_calls")
    if calls:
        wire.put(f"\n\n<{DSML}tool_calls>\n")
        for number, call in enumerate(calls):
            _put_call(wire, call, f"messages[{turn.first}].tool_calls[{number}]")
        wire.put(f"</{DSML}tool_calls>")
    if not message.get("wo_eos"):
        wire.put(EOS)


def _put_call(wire: Wire, call: Any, where: str) -> None:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise ProtocolError(f"{where}.function: must have a name and arguments")
    wire.put(f'<{DSML}invoke name="')
    wire.say(f"{function['name']}")
    wire.put('">\n')
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    if not arguments:
        wire.put("\n")
    for key, (value, string) in arguments.items():
        wire.put(f'<{DSML}parameter name="')
        wire.say(key)
        wire.put(f'" string="{"true" if string else "false"}">')
        wire.say(value)
        wire.put(f"</{DSML}parameter>\n")
    wire.put(f"</{DSML}invoke>\n")


def _arguments(arguments: Any, where: str) -> dict[str, tuple[str, bool]]:
    """name → (text of the value, is it a string). `arguments` is JSON text, or an object.

    Text that is not JSON goes whole under `arguments`, as a string; JSON that is no object goes
    there too, as JSON.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return {"arguments": (arguments, True)}
    if not isinstance(arguments, Mapping):
        return {"arguments": (_json(arguments, where), False)}
    return {
        f"{key}": (value, True) if isinstance(value, str) else (_json(value, where), False)
        for key, value in arguments.items()
    }


def _json(value: Any, where: str) -> str:
    """JSON as the protocol writes it: `, ` and `: `, non-ASCII kept."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"{where}: cannot be written as JSON: {error}") from error


def _put_opening(wire: Wire, turn: Turn, thinking: bool, reasons: bool) -> None:
    """What opens the reply to a turn: a task's token, or the assistant's role."""
    task = turn.message.get("task")
    if task is not None:
        put_task(wire, task, thinking, f"messages[{turn.first}].task")
    elif turn.role in ("user", "developer"):
        wire.put(ASSISTANT + (THINK if reasons else END_THINK))


def put_task(wire: Wire, task: str, thinking: bool, where: str) -> None:
    """The token that asks for a quick instruction; an action is asked of the assistant."""
    if task not in tuple(TASKS):
        raise ProtocolError(f"{where} = {task!r}: must be one of {', '.join(TASKS)}")
    if task == "action":
        wire.put(ASSISTANT + (THINK if thinking else END_THINK))
    wire.put(TASKS[task])
