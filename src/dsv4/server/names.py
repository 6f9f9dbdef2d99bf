"""Ids of responses and of calls."""

from __future__ import annotations

import secrets
import string

_LETTERS = string.ascii_letters + string.digits


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return prefix + secrets.token_hex(16)


def call_id(number: int, unreasoned: bool) -> str:
    """The id of a reply's call; it tells whether a reply in thinking mode had no reasoning."""
    mark = "ET_" if unreasoned else ""
    rest = "".join(secrets.choice(_LETTERS) for _ in range(20))
    return f"call_{number:02d}_{mark}{rest}{secrets.randbelow(10_000):04d}"
