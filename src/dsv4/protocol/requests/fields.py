"""Fields of a JSON body: each is read with its type, and null is as good as absent.

Paths are written as JSON would be indexed: `messages[2].tool_calls[0].id`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dsv4.protocol.errors import RequestError
from dsv4.protocol.segments import half_reason, is_unicode

Json = Mapping[str, Any]


def place(path: str, key: str) -> str:
    """The path of a field."""
    return f"{path}.{key}" if path else key


def wrong(value: Any, path: str, wanted: str) -> RequestError:
    """The error of a value that is of the wrong kind, with the beginning of the value."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return RequestError(f"must be {wanted}, not {shown}", path)


def missing(path: str, key: str) -> RequestError:
    """The error of a field that has to be there."""
    return RequestError("is missing", place(path, key))


def mapping(value: Any, path: str) -> Json:
    """An object."""
    if not isinstance(value, Mapping):
        raise wrong(value, path, "an object")
    return value


def inner(body: Json, key: str, path: str = "") -> Json:
    """An object of a field; empty if absent."""
    value = body.get(key)
    return {} if value is None else mapping(value, place(path, key))


def items(body: Json, key: str, path: str = "") -> list[Any]:
    """A list of a field; empty if absent."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise wrong(value, place(path, key), "a list")
    return list(value)


def text(body: Json, key: str, path: str = "") -> str | None:
    """Text."""
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise wrong(value, place(path, key), "text")
    return value


def needed(body: Json, key: str, path: str = "") -> str:
    """Text that has to be there."""
    value = text(body, key, path)
    if value is None:
        raise missing(path, key)
    return value


def flag(body: Json, key: str, path: str = "") -> bool | None:
    """True or false."""
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise wrong(value, place(path, key), "true or false")
    return value


def integer(body: Json, key: str, path: str = "") -> int | None:
    """A number without a fraction, not negative."""
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise wrong(value, place(path, key), "an integer, not negative")
    return value


def number(body: Json, key: str, path: str = "") -> float | None:
    """Any number."""
    value = body.get(key)
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise wrong(value, place(path, key), "a number")
    return value


def word(body: Json, key: str, words: Collection[str], path: str = "") -> str | None:
    """One of some words."""
    value = body.get(key)
    if value is not None and (not isinstance(value, str) or value not in words):
        raise wrong(value, place(path, key), f"one of {', '.join(words)}")
    return value


def check_characters(body: Json) -> None:
    """Half of a surrogate pair, which JSON can spell and no tokenizer takes, stands nowhere."""
    rest: list[Any] = [body]
    for value in rest:  # it grows meanwhile; paths are only made where there is an error
        if isinstance(value, str):
            if not value.isascii() and not is_unicode(value):
                raise _half(body)
        elif isinstance(value, (dict, Mapping)):
            rest.extend(value)
            rest.extend(value.values())
        elif isinstance(value, (list, tuple)):
            rest.extend(value)


def _half(body: Json) -> RequestError:
    """The error of the first text that has half of a pair; of a name, at its object."""
    rest: list[tuple[Any, str]] = [(body, "")]  # the next one is the last
    while rest:
        value, path = rest.pop()
        if isinstance(value, str) and not is_unicode(value):
            return RequestError(half_reason(value), path)
        inside: list[tuple[Any, str]] = []
        if isinstance(value, Mapping):
            inside += ((key, path) for key in value)
            inside += ((item, place(path, str(key))) for key, item in value.items())
        elif isinstance(value, (list, tuple)):
            inside += ((item, f"{path}[{i}]") for i, item in enumerate(value))
        rest += reversed(inside)
    raise AssertionError("it was there a moment ago")


def refuse(body: Json, lost: Collection[str], path: str = "") -> None:
    """Fields whose content the protocol has no place for must be empty."""
    for key in lost:
        if body.get(key):
            raise RequestError("would be lost: the protocol has no place for it", place(path, key))
