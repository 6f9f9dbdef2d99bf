"""Rules of history that the three APIs share: which call is answered, what texts become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dsv4.protocol.constants import SYSTEM_REMINDER, UNSUPPORTED
from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests.fields import needed, wrong
from dsv4.protocol.requests.options import RequestOptions

_BILLING = "x-anthropic-billing-header"
_DEPTH = 127


class Pending:
    """The calls that still wait for their results; in lenient reading none does."""

    def __init__(self, options: RequestOptions):
        self._lenient = options.lenient
        self._waiting: dict[str, str] = {}
        self._answered: set[str] = set()

    def call(self, call_id: str, path: str) -> None:
        """A call was made."""
        if call_id in self._waiting and not self._lenient:
            raise RequestError(f"{call_id!r} is the id of another call, too", path)
        self._waiting[call_id] = path
        self._answered.discard(call_id)

    def answer(self, call_id: str | None, path: str) -> None:
        """A result came."""
        if call_id in self._waiting:
            del self._waiting[call_id]
            self._answered.add(call_id)
        elif self._lenient:
            return
        elif call_id in self._answered:
            raise RequestError(f"{call_id!r} already has a result", path)
        elif self._waiting:
            left = ", ".join(map(repr, self._waiting))
            raise RequestError(f"{call_id!r} answers no call; those without a result: {left}", path)
        else:
            raise RequestError(f"{call_id!r} answers no call of the reply before it", path)

    def settle(self) -> None:
        """Something else comes: no call may be left waiting."""
        self._answered.clear()
        if self._waiting and not self._lenient:
            call_id, path = next(iter(self._waiting.items()))
            raise RequestError(f"the call {call_id!r} has no result right after it", path)
        self._waiting.clear()

    @property
    def done(self) -> bool:
        """No call waits."""
        return not self._waiting


def object_of(arguments: str) -> dict[str, Any]:
    """A call's arguments: the object that the text spells in the JSON of RFC 8259.

    Any other text (other JSON, NaN, numbers out of range, half a surrogate pair, nesting deeper
    than 127) is kept whole under the key `arguments`.
    """
    try:
        value = _decode(arguments)
        if type(value) is dict and _is_sound(arguments, value):
            return value
    except (ValueError, RecursionError):
        pass
    return {"arguments": arguments}


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is out of range")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_decode = json.JSONDecoder(parse_float=_finite, parse_constant=_no_number).decode


def _is_sound(text: str, value: dict[str, Any]) -> bool:
    if "\\u" in text:  # a UnicodeEncodeError is a ValueError
        json.dumps(value, ensure_ascii=False).encode()
    brackets = text.count("{") + text.count("[")
    return brackets <= _DEPTH or _depth(value) <= _DEPTH


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0) if isinstance(value, dict | list) else 0


def parts_text(content: Any, path: str, texts: Sequence[str], fixed: Mapping[str, str]) -> str:
    """The text of a content: text, or a list of parts joined by a blank line.

    `texts`: the types of parts that hold text; `fixed`: type → what stands for such a part. A part
    of any other type is named, but a refusal is an error.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise wrong(content, path, "text or a list of parts")
    return "\n\n".join(
        part_text(part, f"{path}[{number}]", texts, fixed) for number, part in enumerate(content)
    )


def part_text(part: Any, path: str, texts: Sequence[str], fixed: Mapping[str, str]) -> str:
    """The text of one part."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise wrong(part, path, "an object with a type")
    if kind in texts:
        return needed(part, "text", path)
    if kind == "refusal":
        raise RequestError("would be lost: the protocol has no place for a refusal", path)
    if kind == "document":
        source = part.get("source")
        media = source.get("media_type") if isinstance(source, Mapping) else None
        return UNSUPPORTED["document"].format(type=media or "unknown")
    return fixed.get(kind) or f"[Unsupported {kind}]"


def reminder(text: str) -> list[dict[str, Any]]:
    """A system text that stays where it stands; nothing for an empty one."""
    return [{"role": "user", "content": SYSTEM_REMINDER.format(text=text)}] if text else []


def without_billing(text: str) -> str:
    """A system text less the billing header of one client, which changes with every request."""
    if not text.startswith(_BILLING):
        return text
    ends = [at for at in (text.find("\n"), text.find("You are")) if at >= 0]
    return text[min(ends) :].lstrip() if ends else ""


def is_billing(text: str) -> bool:
    """A block of nothing but that header."""
    return text[: len(_BILLING)].lower() == _BILLING


def check_reasoning(
    messages: Sequence[Mapping[str, Any]], tools: bool, name: str, path: str
) -> None:
    """Reasoning after the last thing a user said must have been passed back. Raises RequestError.

    A call whose id carries the mark ET was made without reasoning.
    """
    users = (i for i in reversed(range(len(messages))) if messages[i]["role"] == "user")
    for message in messages[next(users, -1) + 1 :]:
        calls = message.get("tool_calls") or ()
        if message["role"] != "assistant" or message.get("reasoning_content"):
            continue
        marked = any(c["id"][8:11] == "ET_" or c["id"][6:8] == "ET" for c in calls)
        if (calls or tools) and not marked:
            raise RequestError(
                f"The `{name}` in the thinking mode must be passed back to the API.", path
            )
