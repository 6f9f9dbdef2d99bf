"""The rows of one token file, from any position, in an order that a seed decides.

An epoch is a permutation of the documents, read in windows. A window's documents are cut where they
are longer than a row, packed by best fit, and its rows shuffled. So a position is (epoch, window,
rows taken from it), and needs no list of what was read. A window whose row length changes in the
middle is packed anew from what no row has taken yet: nothing is lost or read twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dsv4.data.errors import DataError
from dsv4.data.packing import best_fit
from dsv4.data.tokens import TokenFile

WINDOW = 1 << 14  # documents that are packed together


class Span(NamedTuple):
    """A document, or a piece of one: ids `start … start + length − 1`; the document's end at
    `end`."""

    start: int
    length: int
    end: int


Row = list[Span]


class Stream:
    """An endless sequence of rows of the documents that have at least so many tokens.

    Raises: DataError for a file without tokens.
    """

    def __init__(self, file: TokenFile, seed: int, *, window: int = WINDOW, least: int = 0):
        lengths = np.diff(file.offsets)
        self._numbers = np.flatnonzero(lengths >= max(least, 1))  # of the documents
        self.tokens = int(lengths[self._numbers].sum())
        if not self.tokens:
            what = f"no document of {least:,} tokens" if least else "no tokens"
            raise DataError(f"{file.path} holds {what}: give more text, or leave it out")
        self.file, self.seed, self.size = file, seed, window
        self.windows = -(-len(self._numbers) // window)
        self._order: tuple[int, np.ndarray] | None = None  # of an epoch
        self.load_state_dict({"epoch": 0, "window": 0, "taken": []})

    def state_dict(self) -> dict[str, Any]:
        """The exact position: `taken` lists [row length, rows] of the window in the order in which
        they were read."""
        taken = [list(pair) for pair in self._taken]
        return {"epoch": self.epoch, "window": self.window, "taken": taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position that `state_dict` told of the same file and seed."""
        self.epoch, self.window = state["epoch"], state["window"]
        self._taken: list[list[int]] = []
        self._rows: list[Row] | None = None
        for seq_len, count in state["taken"]:
            self._plan(seq_len)
            self._taken[-1][1] = count

    def next(self, seq_len: int) -> Row:
        """The next row of at most `seq_len` ids."""
        rows = self._planned(seq_len)
        row = rows[self._at()]
        self._taken[-1][1] += 1
        if self._at() == len(rows):
            self.window += 1
            if self.window == self.windows:
                self.epoch, self.window = self.epoch + 1, 0
            self._taken, self._rows = [], None
        return row

    # ---- the window ------------------------------------------------------------------------------

    def _at(self) -> int:
        return self._taken[-1][1]

    def _planned(self, seq_len: int) -> list[Row]:
        """The rows of `seq_len` that the window has left, those already taken before them."""
        if not self._taken or self._taken[-1][0] != seq_len:
            self._plan(seq_len)
        assert self._rows is not None
        return self._rows

    def _plan(self, seq_len: int) -> None:
        spans = self._documents() if self._rows is None else merge(self._rows[self._at() :])
        key = (self.seed, self.epoch, self.window, len(self._taken))
        rows = pack(spans, seq_len)
        self._rows = [rows[number] for number in np.random.default_rng(key).permutation(len(rows))]
        self._taken.append([seq_len, 0])

    def _documents(self) -> list[Span]:
        if self._order is None or self._order[0] != self.epoch:
            rng = np.random.default_rng((self.seed, self.epoch))
            self._order = self.epoch, rng.permutation(self._numbers)
        chosen = self._order[1][self.window * self.size : (self.window + 1) * self.size]
        starts, ends = self.file.offsets[chosen], self.file.offsets[chosen + 1]
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        return [Span(start, end - start, end) for start, end in pairs]


def pack(spans: list[Span], seq_len: int) -> list[Row]:
    """Rows of at most `seq_len` ids: spans longer than that are cut, the rest of each is packed."""
    pieces = [
        Span(start, min(seq_len, span.start + span.length - start), span.end)
        for span in spans
        for start in range(span.start, span.start + span.length, seq_len)
    ]
    rows = best_fit([piece.length for piece in pieces], seq_len)
    return [[pieces[index] for index in row] for row in rows]


def merge(rows: list[Row]) -> list[Span]:
    """The spans of some rows, neighbouring pieces of a document joined again."""
    merged: list[Span] = []
    for span in sorted(span for row in rows for span in row):
        last = merged[-1] if merged else None
        if last and last.end == span.end and last.start + last.length == span.start:
            merged[-1] = Span(last.start, last.length + span.length, span.end)
        else:
            merged.append(span)
    return merged
