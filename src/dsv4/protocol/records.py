"""Records of departures, the same however the completion was cut."""

from __future__ import annotations

from dsv4.protocol.deltas import ErrorRecord


class Records:
    """In the order of reading; neighbouring text of one kind is one record."""

    def __init__(self) -> None:
        self._all: list[tuple[str, int, list[str]]] = []  # kind, offset, text in pieces
        self._end = 0  # where the text of the last one ends

    def add(self, kind: str, text: str, at: int) -> None:
        """Nothing is recorded without a kind or without text, nor the same place twice."""
        last_kind, last_at, pieces = self._all[-1] if self._all else ("", 0, [])
        if not kind or not text or (kind, at, [text]) == (last_kind, last_at, pieces):
            return
        if kind == last_kind and self._end == at:
            pieces.append(text)
        else:
            self._all.append((kind, at, [text]))
        self._end = at + len(text)

    def add_place(self, kind: str, at: int) -> None:
        """A departure that no text shows."""
        self._all.append((kind, at, []))

    def all(self) -> list[ErrorRecord]:
        """So far."""
        return [ErrorRecord(kind, at, "".join(pieces)) for kind, at, pieces in self._all]
