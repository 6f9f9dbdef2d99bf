"""Sources mixed by weight: each row comes from the one that is furthest behind its share.

With r_i tokens of room taken from source i of weight w_i, the next row is that of the smallest
(r_i + seq_len / 2) / w_i. So after any number of rows each share is within a row of its weight, and
the order follows from the position alone: `state_dict` is all that a run must keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from dsv4.data.errors import DataError
from dsv4.data.rows import Rows, lay
from dsv4.data.stream import Row, Span, Stream, pack
from dsv4.data.tokens import TokenFile


@dataclass(frozen=True)
class Source:
    """A token file of a mixture. `weight` None: as many as its tokens; `epochs` None: no end.
    `least`: documents of fewer tokens are left out, as in a stage that favours long ones."""

    name: str
    file: TokenFile
    weight: float | None = None
    epochs: float | None = None
    least: int | None = None

    def __post_init__(self) -> None:
        for field in ("weight", "epochs", "least"):
            value = getattr(self, field)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{self.name}: {field} = {value!r}: must be a number above 0")

    @property
    def share(self) -> float:
        """The weight, not normalised."""
        return float(self.tokens if self.weight is None else self.weight)

    @cached_property
    def tokens(self) -> int:
        """The tokens of an epoch."""
        lengths = np.diff(self.file.offsets)
        return int(lengths[lengths >= (self.least or 0)].sum())


class Mixture:
    """Batches of rows of several sources; the same calls from the same position give the same.

    Raises: DataError if sources of one name, or of different tokenizers, are mixed.
    """

    def __init__(self, sources: Sequence[Source], *, seed: int, pad: int):
        self.sources, self.seed, self.pad = {s.name: s for s in sources}, seed, pad
        if not sources or len(self.sources) < len(sources):
            raise DataError("a mixture needs sources, each under a name of its own")
        _check_one_tokenizer(sources)
        self.rows = 0  # taken so far, whatever the batches
        self._streams = {
            name: Stream(source.file, _seed_of(seed, name), least=source.least or 0)
            for name, source in self.sources.items()
        }
        self._room = dict.fromkeys(self.sources, 0)  # rows × their length, since weights changed
        self._read = dict.fromkeys(self.sources, 0)  # tokens
        self._beginning = self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """The exact position, as JSON can hold it."""
        return {
            "rows": self.rows,
            "seed": self.seed,
            "sources": {
                name: {
                    **stream.state_dict(),
                    "sha256": stream.file.header.sha256,
                    "share": self.sources[name].share,
                    "least": self.sources[name].least,
                    "room": self._room[name],
                    "read": self._read[name],
                }
                for name, stream in self._streams.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position. Other weights than it was left with count from there on; a source that
        it does not know begins, one that is mixed no more is left where it was, and one whose
        `least` has changed goes on with a new epoch of what it now holds.

        Raises: DataError for a position in other files, or of another seed.
        """
        known = {name: own for name, own in state["sources"].items() if name in self.sources}
        if state["seed"] != self.seed:
            raise DataError(
                f"the position is of seed {state['seed']}, not {self.seed}: keep the seed"
            )
        for name, own in known.items():
            file = self.sources[name].file
            if own["sha256"] != file.header.sha256:
                raise DataError(
                    f"{file.path} is not the file that this position is in: prepare it as it was, "
                    "or begin a new run"
                )
        for name, own in known.items():
            same = own["least"] == self.sources[name].least
            begun = {"epoch": own["epoch"] + 1, "window": 0, "taken": []}
            self._streams[name].load_state_dict(own if same else begun)
            self._read[name] = own["read"]
        shares = {name: own["share"] for name, own in state["sources"].items()}
        same = shares == {name: source.share for name, source in self.sources.items()}
        self._room = {name: known[name]["room"] if same else 0 for name in self.sources}
        self.rows = state["rows"]

    def next(self, size: int, seq_len: int, *, rank: int = 0, world: int = 1) -> Rows:
        """The next `size` rows, of which rank r of a world of w gets rows r, r + w, …

        The position counts all of them. Raises: DataError at the end of all sources.
        """
        if size % world:
            raise ValueError(f"{size} rows do not spread evenly over {world} ranks")
        chosen = [self._next(seq_len) for _ in range(size)]
        return lay(chosen[rank::world], seq_len, self.pad)

    def seek(self, rows: int, seq_len: int) -> None:
        """Go to where so many rows of `seq_len` are taken, from the beginning if that is behind."""
        if rows < self.rows:
            self.load_state_dict(self._beginning)
        while self.rows < rows:
            self._next(seq_len)

    def _next(self, seq_len: int) -> tuple[TokenFile, Row]:
        left = [name for name in self.sources if not self._ended(name)]
        if not left:
            raise DataError(f"the data ends after {self.rows} rows: allow more epochs, or add text")
        name = min(
            left, key=lambda name: (self._room[name] + seq_len / 2) / self.sources[name].share
        )
        row = self._streams[name].next(seq_len)
        self._room[name] += seq_len
        self._read[name] += sum(span.length for span in row)
        self.rows += 1
        return self.sources[name].file, row

    def _ended(self, name: str) -> bool:
        source = self.sources[name]
        return source.epochs is not None and (self._read[name] >= source.epochs * source.tokens)


def in_order(file: TokenFile, size: int, seq_len: int, pad: int) -> Iterator[Rows]:
    """Every document of a file once, packed, in batches of `size`: for validation."""
    offsets = file.offsets.tolist()
    spans = [Span(a, b - a, b) for a, b in pairwise(offsets)]
    rows = pack(spans, seq_len)
    for first in range(0, len(rows), size):
        yield lay([(file, row) for row in rows[first : first + size]], seq_len, pad)


def _check_one_tokenizer(sources: Sequence[Source]) -> None:
    first = sources[0]
    for source in sources[1:]:
        if source.file.header.made.get("tokenizer") != first.file.header.made.get("tokenizer"):
            raise DataError(
                f"{source.file.path} and {first.file.path} were made with different tokenizers: "
                "prepare them with one"
            )


def _seed_of(seed: int, name: str) -> int:
    """A seed for each source, whatever else is mixed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8])
