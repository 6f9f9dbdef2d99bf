"""The exact tags of tool calls, the search for words in a text that is still growing, JSON values.

<｜DSML｜tool_calls>, <｜DSML｜invoke name="…">, <｜DSML｜parameter name="…" string="true|false">
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any

from dsv4.protocol.constants import DSML

BLOCK_TAG, BLOCK_END_TAG = f"<{DSML}tool_calls>", f"</{DSML}tool_calls>"
INVOKE_END_TAG, PARAMETER_END_TAG = f"</{DSML}invoke>", f"</{DSML}parameter>"


def growing(*parts: str) -> str:
    """A pattern of `parts` in a row that also matches where the text ends between two of them."""
    out = ""
    for part in reversed(parts):
        out = f"{part}(?:\\Z|{out})" if out else part
    return out


def literal(word: str) -> str:
    """A pattern of a word, or of what the text's end holds of it."""
    return growing(*map(re.escape, word))


class Markers:
    """Finds the first of some words; group 1 is None where the text ends inside the word.

    The pattern is compiled when it is first used: an import should cost nothing.
    """

    def __init__(self, *words: str):
        self._words = words

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Of the words and their beginnings."""
        whole = "|".join(map(re.escape, self._words))
        return re.compile(f"({whole})|{'|'.join(map(literal, self._words))}")


# ---- values -----------------------------------------------------------------------------------


def string_piece(text: str) -> str:
    """A piece of a JSON string, without its quotes."""
    return encode_basestring(text)[1:-1]


def json_value(text: str) -> Any:
    """The value of JSON text; numbers stay text. Raises ValueError if it is no JSON."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def is_json(text: str) -> bool:
    """Whether it is the JSON text of any value."""
    try:
        json_value(text)
    except ValueError:
        return False
    return True


def is_object(text: str) -> bool:
    """Whether it is the JSON text of an object."""
    return text.lstrip()[:1] == "{" and is_json(text)


_IN_JSON = re.compile(r'\\(?:.|\Z)|"', re.DOTALL)


class Quotes:
    """Whether a growing JSON text ends inside a string."""

    def __init__(self) -> None:
        self.open = False
        self._escape = False  # the next character is escaped

    def push(self, text: str) -> None:
        """More of it."""
        start, self._escape = int(self._escape and bool(text)), self._escape and not text
        for found in _IN_JSON.finditer(text, start):
            if found.group() == '"':
                self.open = not self.open
            elif len(found.group()) == 1:
                self._escape = True
