"""Responses that a later request may go on from: the newest, within counts and bytes."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from dsv4.server.errors import ApiError


class Store:
    """id → (the items of the whole conversation, the response)."""

    def __init__(self, most: int, most_bytes: int):
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, tuple[str, str]] = OrderedDict()  # both as JSON
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, key: str, items: list[Any], response: Mapping[str, Any]) -> None:
        """Remember; the least recently used make room."""
        kept = json.dumps(items), json.dumps(response)
        with self._lock:
            self._kept[key] = kept
            self._bytes += _size(kept)
            while len(self._kept) > self._most or self._bytes > self._most_bytes:
                _, old = self._kept.popitem(last=False)
                self._bytes -= _size(old)

    def items(self, key: str) -> list[Any]:
        """The conversation up to a response and its output. Raises ApiError 404."""
        found: list[Any] = json.loads(self._find(key)[0])
        return found

    def item(self, key: str) -> Any:
        """An item of a response's output, by its own id: see `ResponsesWriter`. Raises ApiError."""
        response = key.partition("_")[2].rpartition("_")[0]
        with self._lock:
            kept = self._kept.get(response)
        for item in json.loads(kept[0]) if kept is not None else ():
            if isinstance(item, dict) and item.get("id") == key:
                return item
        why = "it was not stored, or had to make room: send the item itself"
        raise ApiError(404, f"there is no item {key!r}: {why}", "input", "not_found")

    def response(self, key: str) -> Any:
        """The response. Raises ApiError 404."""
        return json.loads(self._find(key)[1])

    def drop(self, key: str) -> None:
        """Forget it. Raises ApiError 404."""
        self._find(key)
        with self._lock:
            self._bytes -= _size(self._kept.pop(key, ("", "")))

    def _find(self, key: str) -> tuple[str, str]:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                raise ApiError(
                    404,
                    f"there is no response {key!r}: it was not stored, or had to make room",
                    "previous_response_id",
                    "not_found",
                )
            self._kept.move_to_end(key)
            return found


def _size(kept: tuple[str, str]) -> int:
    return len(kept[0]) + len(kept[1])
