"""Control tokens that are known by their ids: the first character of each carries a mark.

    spelled by anyone   <think>      ｜DSML｜
    the token itself    ▮think>      ▮DSML｜      ▮: half of a surrogate pair, which no text holds

A marked token has the length of its spelling, so places in the text stay what they are.
"""

from __future__ import annotations

from typing import TypeVar

from dsv4.protocol.constants import CONTROL
from dsv4.protocol.deltas import CallEnd, Delta, End, ErrorRecord

MARKS = {"<": "\udc3c", "｜": "\udc5c"}
_UNMARK = {ord(mark): letter for letter, mark in MARKS.items()}
_FORGED = dict.fromkeys(map(ord, MARKS.values()), "\ufffd")
_TOKENS = {token: MARKS[token[0]] + token[1:] for token in CONTROL}
T = TypeVar("T", Delta, ErrorRecord)


def marked(token: str) -> str:
    """A control token that is one; other tokens are text."""
    return _TOKENS.get(token, token)


def plain(text: str) -> str:
    """Text in which nothing is a token."""
    return text.translate(_FORGED) if any(mark in text for mark in MARKS.values()) else text


def unmarked(text: str) -> str:
    """As it is spelled."""
    return text.translate(_UNMARK) if any(mark in text for mark in MARKS.values()) else text


def shown(item: T) -> T:
    """A delta or record as it is spelled."""
    if isinstance(item, CallEnd | End):
        return item
    return item._replace(**{item._fields[-1]: unmarked(item[-1])})  # type: ignore[arg-type]
