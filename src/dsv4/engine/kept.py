"""What the prefix cache holds, pages and states, and which of it goes first.

What was reused before outlives what was not, then what was used lately what was not. Reuse counts
for the latest SHARE of the memory alone, so that old conversations do not keep new ones out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dsv4.engine.snapshot import Snapshot

SHARE = 0.75  # of the pages, and of the bytes of states


@dataclass(eq=False)
class Page:
    """A whole page that the cache holds."""

    key: bytes
    number: int
    depth: int  # pages before it
    before: bytes  # key of these
    tokens: array[int]
    hits: int = 0
    used: int = 0


@dataclass(eq=False)
class State:
    """A length that can be continued: what its slot held, and the pages from `base` on."""

    key: bytes  # of the tokens before `base`
    base: int  # where its own tokens begin, a multiple of a page
    tokens: Sequence[int]  # from `base` up to the snapshot's length
    pages: Sequence[int]  # held: those of `tokens`, the last perhaps not whole
    kept: Snapshot
    hits: int = 0
    used: int = 0


T = TypeVar("T", Page, State)


def worth(kept: Page | State) -> tuple[bool, int, int]:
    """What goes first: never reused, long not used, and of one prefix the last pages."""
    return kept.hits > 0, kept.used, -kept.depth if isinstance(kept, Page) else -(1 << 40)


def retire(kept: Iterable[T], size: Callable[[T], int], most: float) -> None:
    """Forget that all but the latest `most` were reused."""
    for one in sorted((one for one in kept if one.hits), key=worth, reverse=True):
        most -= size(one)
        if most < 0:
            one.hits = 0
