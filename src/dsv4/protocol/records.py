"""Records of departures, the same however the completion was cut."""

from __future__ import annotations

from dsv4.protocol.deltas import ErrorRecord

RUNNING = {  # kinds whose text comes in pieces: neighbours are one record
    *("duplicate_parameter", "text_in_call", "text_among_calls"),
    *("text_after_calls", "text_after_end"),
}


class Records:
    """In the order of their places; each departure once."""

    def __init__(self) -> None:
        self._all: dict[tuple[int, str], str] = {}
        self._run = ("", 0, 0)  # kind, place and end of the text that may go on
        self._pieces: list[str] = []
        self._last = -1  # the furthest place

    def add(self, kind: str, text: str, at: int) -> None:
        """Nothing is recorded without a kind or text, nor the same departure twice."""
        if not kind or not text:
            return
        self._last = max(self._last, at)
        if kind in RUNNING:
            self._add_running(kind, text, at)
        else:
            self._all.setdefault((at, kind), text)

    def _add_running(self, kind: str, text: str, at: int) -> None:
        if (kind, at) != (self._run[0], self._run[2]):
            self._close()
            self._run = (kind, at, at)
        self._pieces.append(text)
        self._run = (kind, self._run[1], at + len(text))

    def _close(self) -> None:
        if self._pieces:
            self._all.setdefault((self._run[1], self._run[0]), "".join(self._pieces))
            self._pieces = []

    def add_place(self, kind: str, at: int) -> None:
        """A departure that no text shows."""
        self._last = max(self._last, at)
        self._all.setdefault((at, kind), "")

    def drop(self, first: int, last: int) -> None:
        """What turned out to be text has no departures of its own."""
        if first > self._last:
            return
        self._close()
        self._all = {key: text for key, text in self._all.items() if not first <= key[0] < last}

    def absorb(self, other: Records) -> None:
        """All that another one holds."""
        other._close()
        self._close()
        self._all |= other._all
        self._last = max(self._last, other._last)

    def all(self) -> list[ErrorRecord]:
        """So far."""
        found = dict(self._all)
        if self._pieces:
            found.setdefault((self._run[1], self._run[0]), "".join(self._pieces))
        return [
            ErrorRecord(kind, at, text)
            for (at, kind), text in sorted(found.items(), key=lambda entry: entry[0][0])
        ]
