"""One tool call as deltas: its arguments are a JSON object that grows from left to right."""

from __future__ import annotations

import json
from collections.abc import Callable

from dsv4.protocol.deltas import CallArguments, CallEnd, CallStart, Delta
from dsv4.protocol.markup import string_piece


class Call:
    """Writes the deltas of one call. A string's value streams; any other is held until it ends."""

    def __init__(self, emit: Callable[[Delta], None], number: int, name: str):
        self._emit, self.number = emit, number
        self.keys: set[str] = set()
        self.string = False
        self._held: list[str] = []
        emit(CallStart(number, name))

    def begin(self, key: str, string: bool) -> None:
        """A parameter begins."""
        lead = ", " if self.keys else "{"
        self.keys.add(key)
        self.string, self._held = string, []
        name = json.dumps(key, ensure_ascii=False)
        self.write(f'{lead}{name}: "' if string else f"{lead}{name}: ")

    def piece(self, text: str) -> None:
        """More of its value."""
        if self.string:
            self.write(string_piece(text))
        else:
            self._held.append(text)

    def value(self) -> str:
        """What is held of a value that is no string."""
        return "".join(self._held)

    def end_value(self, text: str = "") -> None:
        """The parameter ends; `text` stands in for the held value if that is no JSON."""
        self.write('"' if self.string else text or self.value())

    def end(self) -> None:
        """The call is whole."""
        self.write("}" if self.keys else "{}")
        self._emit(CallEnd(self.number))

    def end_with(self, arguments: str) -> None:
        """The call is whole, with the text of a JSON object as its arguments."""
        self.write(arguments)
        self._emit(CallEnd(self.number))

    def write(self, text: str) -> None:
        """More of the arguments' JSON text."""
        if text:
            self._emit(CallArguments(self.number, text))
