"""Quick instructions: one short completion on a prefix that is already in the cache.

    conversation <token>                          query, authority, domain, read_url; title
    conversation <Assistant> (<think> | </think>) <action>

`title` follows the end of a reply; the others follow the user's text, where a reply would begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dsv4.protocol.encode import encode_segments, put_task
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.segments import Segment, Wire
from dsv4.protocol.turns import Message


class Quick(NamedTuple):
    """`prefix` + `continuation` is the prompt; the prefix begins the conversation's own prompt."""

    prefix: list[Segment]
    continuation: list[Segment]


def continuation(task: str, thinking_mode: str = "chat") -> list[Segment]:
    """What asks for a task, to be put after the encoded conversation. Raises ProtocolError."""
    if thinking_mode not in ("chat", "thinking"):
        raise ProtocolError(f"thinking_mode = {thinking_mode!r}: must be chat or thinking")
    wire = Wire()
    put_task(wire, task, thinking_mode == "thinking", "task")
    return wire.segments()


def quick_instruction(
    messages: Sequence[Message], task: str, thinking_mode: str, **options: Any
) -> Quick:
    """The prompt that asks for `task` about a conversation, in two parts.

    The tokens of `prefix` are the first ones of `encode_segments(messages, thinking_mode,
    **options)`, so a server that has answered, or is about to, has them in its cache. The last
    message must be an assistant's for a title and a user's, tool's or developer's for any other
    task. Raises ProtocolError.
    """
    asks = continuation(task, thinking_mode)
    whole = encode_segments(messages, thinking_mode, **options)
    check_place(task, messages)
    opening = 0 if task == "title" else 2  # the role's token and <think> or </think>
    return Quick(whole[: len(whole) - opening], asks)


def check_place(task: str, messages: Sequence[Message]) -> None:
    """A title follows a reply, any other task what a user said. Raises ProtocolError."""
    role = messages[-1]["role"] if messages else None
    if (role == "assistant") != (task == "title") or role in (None, "system", "latest_reminder"):
        wanted = "an assistant's message" if task == "title" else "what a user said"
        raise ProtocolError(f"task = {task!r}: must follow {wanted}, not role = {role!r}")
