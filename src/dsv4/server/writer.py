"""deltas → the events of one API, and the whole response that they add up to.

Each API is one class of this form. A whole response is made by the class that makes the stream, so
the two cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from dsv4.server.errors import ApiError
from dsv4.server.reply import Update

Event = tuple[str | None, Mapping[str, Any]]  # the event's name, if the API names it, and its data


class Writer(Protocol):
    """Told what comes, in its order; what it yields is to be sent."""

    def start(self) -> Iterable[Event]:
        """The prompt has been read."""
        ...

    def add(self, number: int, update: Update, over: bool) -> Iterable[Event]:
        """Something came for reply `number`; `over`: nothing more will."""
        ...

    def finish(self) -> Iterable[Event]:
        """All replies are over."""
        ...

    def fail(self, error: ApiError) -> Iterable[Event]:
        """The stream ends here, with an error."""
        ...

    def whole(self) -> Mapping[str, Any]:
        """The response, when all replies are over."""
        ...

    @property
    def last(self) -> bytes:
        """What ends a whole stream."""
        ...


JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(value: Any) -> bytes:
    """Compact JSON."""
    return JSON.encode(value).encode("utf-8", "replace")


def sse(events: Iterable[Event]) -> bytes:
    """Events as server-sent events."""
    out = bytearray()
    for name, data in events:
        if name is not None:
            out += b"event: " + name.encode() + b"\n"
        out += b"data: " + encode(data) + b"\n\n"
    return bytes(out)
