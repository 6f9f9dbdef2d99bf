"""Text that remembers who wrote it: control tokens stand only where the protocol put them.

`Wire.put` takes the protocol's own text, in which control strings are control tokens; `Wire.say`
takes anyone's text, in which nothing is. Joined, both are the prompt; apart, they are what a
tokenizer needs so that a user who types a role's token does not become that role.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from dsv4.protocol.constants import CONTROL_RE
from dsv4.protocol.errors import ProtocolError


class Segment(NamedTuple):
    """A stretch of the prompt: one control token, or text in which nothing is a control token."""

    text: str
    control: bool


class TextEncoder(Protocol):
    """What `to_ids` needs of a tokenizer; `dsv4.Tokenizer` has it."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a control id."""

    def token_id(self, token: str) -> int:
        """The id of one control token."""


class Own(str):
    """The protocol's own text: control strings in it are control tokens."""

    __slots__ = ()


class Spelt(str):
    """Text whose ids are known: those that the model itself chose for it."""

    __slots__ = ("ids",)
    ids: Sequence[int]

    def __new__(cls, text: str, ids: Sequence[int]) -> Spelt:
        """`text` and its ids."""
        made = super().__new__(cls, text)
        made.ids = ids
        return made


class Wire:
    """A prompt as it is written: `put` takes the protocol's own text, `say` anyone else's."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.put: Callable[[Own], None] = self._parts.append
        self.say: Callable[[str], None] = self._parts.append

    def text(self) -> str:
        """The whole prompt."""
        return "".join(self._parts)

    def segments(self, trusted: Collection[str] = ()) -> list[Segment]:
        """Control tokens apart; neighbouring text is one segment, whoever wrote it.

        `trusted`: control strings that are control tokens in anyone's text too.
        """
        in_text = re.compile("(" + "|".join(map(re.escape, trusted)) + ")") if trusted else None
        out: list[Segment] = []
        plain: list[str] = []
        for text in self._parts:
            if type(text) is Spelt:
                out += [*_joined(plain), Segment(text, False)]
                plain = []
                continue
            pattern = CONTROL_RE if type(text) is Own else in_text
            for number, piece in enumerate(pattern.split(text) if pattern else (text,)):
                if number % 2 == 0:
                    plain.append(piece)
                    continue
                out += _joined(plain)
                out.append(Segment(piece, True))
                plain = []
        return out + _joined(plain)


def _joined(plain: list[str]) -> list[Segment]:
    text = "".join(plain)
    return [Segment(text, False)] if text else []


def to_ids(segments: Iterable[Segment], tokenizer: TextEncoder) -> list[int]:
    """Ids of segments: special ids come from control segments alone.

    Raises ProtocolError for half of a surrogate pair, which JSON can spell and no tokenizer takes.
    """
    ids: list[int] = []
    for text, control in segments:
        if type(text) is Spelt:
            ids += text.ids
            continue
        ids += [tokenizer.token_id(text)] if control else tokenizer.encode(unicode_text(text))
    return ids


def unicode_text(text: str) -> str:
    """The same text. Raises ProtocolError for half of a surrogate pair."""
    if not is_unicode(text):
        raise ProtocolError(half_reason(text))
    return text


def is_unicode(text: str) -> bool:
    """Has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def half_reason(text: str) -> str:
    """What is wrong with text that is not, shown by what is around it."""
    end = next(at for at, letter in enumerate(text, 1) if "\ud800" <= letter <= "\udfff")
    return f"{text[max(0, end - 21) : end]!r} ends in half of a character: repair the text"
