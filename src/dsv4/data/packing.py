"""Best fit, decreasing: the longest piece first, each into the row that it fills best.

Rows that are cut from documents laid end to end break nearly every document that meets a row's end;
here only what is longer than a row is cut. (Ding et al., "Fewer truncations improve language
modeling", 2024.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Rows as lists of indices into `lengths`, the lengths of a row adding to at most `room`.

    Every index stands in one row. No length may be larger than `room`.
    """
    rows: list[list[int]] = []
    spaces: list[int] = []  # sorted, each once: the rooms that open rows have left
    open_rows: dict[int, list[int]] = {}  # room left → rows, by number
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        place = bisect_left(spaces, length)
        if place == len(spaces):
            number, space = len(rows), room
            rows.append([])
        else:
            space = spaces[place]
            number = open_rows[space].pop()
            if not open_rows[space]:
                del open_rows[space], spaces[place]
        rows[number].append(index)
        left = space - length
        if left:
            if left not in open_rows:
                insort(spaces, left)
                open_rows[left] = []
            open_rows[left].append(number)
    return rows
