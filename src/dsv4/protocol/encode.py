"""A conversation as the model reads it.

BOS [effort prefix] system  (<User> turn <Assistant> (<think> reasoning)? </think> reply EOS)…

A user turn is what users and tools said since the last reply, joined by blank lines. Reasoning
before the last user turn is dropped unless some message carries tools. Source: the release's
encoding folder; report, section 5.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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

ROLES = ("system", "user", "assistant", "tool", "developer", "latest_reminder")
Message = Mapping[str, Any]


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


# ---- turns: users and tools merged, results in the order of their calls -----------------------


@dataclass
class _Block:
    """A part of a user turn: text, or the result of a tool call."""

    text: str
    result: bool = False
    call_id: str | int = ""


@dataclass
class _Turn:
    """A message, or several of users and tools that are one turn; `index` is the first one's."""

    role: str
    message: Message
    index: int
    blocks: list[_Block] = field(default_factory=list)


_KINDS: dict[str, tuple[type, ...]] = {
    "tool_calls": (list, tuple),
    "tools": (list, tuple),
    "task": (str,),
    "reasoning_content": (str,),
    "tool_call_id": (str, int),
}


def _check_shape(message: Any, where: str) -> None:
    """What the code below relies on; `messages.validate` checks more."""
    if not isinstance(message, Mapping):
        raise ProtocolError(f"{where} = {message!r}: must be an object with a role")
    if message.get("role") not in ROLES:
        raise ProtocolError(
            f"{where}.role = {message.get('role')!r}: must be one of {', '.join(ROLES)}"
        )
    for name, kinds in _KINDS.items():
        if not isinstance(message.get(name), (*kinds, type(None))):
            raise ProtocolError(
                f"{where}.{name} = {message[name]!r}: must be a {kinds[0].__name__}"
            )
    content = message.get("content")
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, Mapping) or not isinstance(part.get("text", ""), str):
            raise ProtocolError(
                f"{where}.content[{number}] = {part!r}: must be an object with a type and text"
            )


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ProtocolError(f"messages: must be a list, not {type(messages).__name__}")
    turns: list[_Turn] = []
    for index, message in enumerate(messages):
        _check_shape(message, f"messages[{index}]")
        role = message["role"]
        if role not in ("user", "tool"):
            turns.append(_Turn(role, message, index))
            continue
        open_turn = turns[-1] if turns and turns[-1].role == "user" else None
        if role == "user" and open_turn and open_turn.message.get("task") is not None:
            open_turn = None  # a task ends its turn for users, not for tools
        if open_turn is None:
            opener = {"task": message["task"]} if role == "user" and "task" in message else {}
            open_turn = _Turn("user", opener, index)  # its other extras are lost, as in the release
            turns.append(open_turn)
        open_turn.blocks.append(_block(role, message, index))
    return turns


def _block(role: str, message: Message, index: int) -> _Block:
    content = message.get("content", "")
    if role == "tool":
        return _Block(content_text(content), True, message.get("tool_call_id") or "")
    if not isinstance(content, str | list):
        raise ProtocolError(f"messages[{index}].content = {content!r}: must be text or parts")
    return _Block(content_text(content))


def content_text(content: Any) -> str:
    """Text as it is; of a list of typed parts the text parts, joined by a blank line."""
    if not isinstance(content, list):
        return f"{content}"
    return "\n\n".join(
        part.get("text", "") if part.get("type") == "text" else f"[Unsupported {part.get('type')}]"
        for part in content
    )


def _order_results(turns: Iterable[_Turn]) -> None:
    """Tool results of a turn in the order of the preceding calls; other blocks keep their place."""
    order: dict[str | int, int] = {}
    for turn in turns:
        calls = turn.message.get("tool_calls") if turn.role == "assistant" else None
        if calls:
            order = {name: place for place, name in enumerate(map(_call_id, calls)) if name}
        results = [block for block in turn.blocks if block.result]
        if len(results) > 1 and order:
            ordered = iter(sorted(results, key=lambda block: order.get(block.call_id, 0)))
            turn.blocks = [next(ordered) if block.result else block for block in turn.blocks]


def _call_id(call: Any) -> str | int | None:
    if not isinstance(call, Mapping):
        return None
    function = call.get("function")
    name = call.get("id") or (function.get("id") if isinstance(function, Mapping) else None)
    return name if isinstance(name, str | int) else None


def _last_user(turns: Sequence[_Turn]) -> int:
    found = (i for i in reversed(range(len(turns))) if turns[i].role in ("user", "developer"))
    return next(found, -1)


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
    before, turns = _turns(context), _turns(messages)
    _order_results(before)
    # the release orders the new results by the context as it was given
    _order_results([*(_Turn(m["role"], m, 0) for m in context), *turns])
    every = [*before, *turns]
    drop = drop_thinking and not any(turn.message.get("tools") for turn in every)
    skip = len(before)
    if thinking and drop:
        last = _last_user(every)
        dropped = {i for i in range(last) if every[i].role == "developer"}
        skip -= sum(i < skip for i in dropped)
        every = [turn for i, turn in enumerate(every) if i not in dropped]
    wire, last = Wire(), _last_user(every)
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


def _put_system(wire: Wire, turn: _Turn) -> None:
    wire.say(content_text(turn.message.get("content") or ""))
    _put_extras(wire, turn)


def _put_user(wire: Wire, turn: _Turn) -> None:
    wire.put(USER)
    for number, block in enumerate(turn.blocks):
        if number:
            wire.put("\n\n")
        if block.result:
            wire.put("<tool_result>")
        wire.say(block.text)
        if block.result:
            wire.put("</tool_result>")


def _put_developer(wire: Wire, turn: _Turn) -> None:
    content = content_text(turn.message.get("content") or "")
    if not content:
        raise ProtocolError(f"messages[{turn.index}].content: a developer message needs text")
    wire.put(USER)
    wire.say(content)
    _put_extras(wire, turn)


def _put_reminder(wire: Wire, turn: _Turn) -> None:
    wire.put(LATEST_REMINDER)
    wire.say(content_text(turn.message.get("content")))


_RENDER: dict[str, Callable[[Wire, _Turn], None]] = {
    "system": _put_system,
    "user": _put_user,
    "developer": _put_developer,
    "latest_reminder": _put_reminder,
}


def _put_extras(wire: Wire, turn: _Turn) -> None:
    """The tool preamble and the response format of a system or developer message."""
    tools = turn.message.get("tools")
    if tools:
        wire.put("\n\n" + TOOLS_BEGIN)
        where = f"messages[{turn.index}].tools"
        wire.say("\n".join(_schema(tool, f"{where}[{i}]") for i, tool in enumerate(tools)))
        wire.put(TOOLS_END)
    response_format = turn.message.get("response_format")
    if response_format:
        wire.put("\n\n" + RESPONSE_FORMAT)
        wire.say(_json(response_format, f"messages[{turn.index}].response_format"))


def _schema(tool: Any, where: str) -> str:
    if not isinstance(tool, Mapping) or "function" not in tool:
        raise ProtocolError(f'{where}: has no "function"')
    return _json(tool["function"], f"{where}.function")


def _put_assistant(wire: Wire, turn: _Turn, reasons: bool) -> None:
    message = turn.message
    if reasons:
        wire.say(message.get("reasoning_content") or "")
        wire.put(END_THINK)
    wire.say(content_text(message.get("content") or ""))
    calls = message.get("tool_calls")
    if calls:
        wire.put(f"\n\n<{DSML}tool_calls>\n")
        for number, call in enumerate(calls):
            _put_call(wire, call, f"messages[{turn.index}].tool_calls[{number}]")
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


def _put_opening(wire: Wire, turn: _Turn, thinking: bool, reasons: bool) -> None:
    """What opens the reply to a turn: a task's token, or the assistant's role."""
    task = turn.message.get("task")
    if task is not None:
        put_task(wire, task, thinking, f"messages[{turn.index}].task")
    elif turn.role in ("user", "developer"):
        wire.put(ASSISTANT + (THINK if reasons else END_THINK))


def put_task(wire: Wire, task: str, thinking: bool, where: str) -> None:
    """The token that asks for a quick instruction; an action is asked of the assistant."""
    if task not in tuple(TASKS):
        raise ProtocolError(f"{where} = {task!r}: must be one of {', '.join(TASKS)}")
    if task == "action":
        wire.put(ASSISTANT + (THINK if thinking else END_THINK))
    wire.put(TASKS[task])
