"""Which backend a prompt goes to: where most of it was read already, unless that one is too busy.

    cost(b) = tokens that b has to read of this prompt + those that it still reads of others
              + STEP · sequences that it decodes

A prefix is known by a hash of all blocks up to its end, as in the engine's own cache. Among equal
costs the order of each prompt's first block decides, the same in every front and after a restart.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

BLOCK = 128  # tokens
STEP = 64  # tokens' worth of a sequence that is decoded
MOST = 1 << 16  # blocks that are remembered: 8 million tokens


class Load(NamedTuple):
    """A backend by its number, tokens that it still reads, and sequences that it decodes."""

    number: int
    reading: int
    decoding: int


class Affinity:
    """Remembers which backend was given which prefix."""

    def __init__(self, most: int = MOST):
        self._most = most
        self._known: OrderedDict[bytes, int] = OrderedDict()  # hash → a bit for each backend

    def learn(self, chain: Sequence[bytes], number: int) -> None:
        """A backend has read, or said, what the chain stands for."""
        for key in chain:
            self._known[key] = self._known.pop(key, 0) | 1 << number
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def forget(self, number: int) -> None:
        """A backend is out, and its memory with it."""
        for key, bits in list(self._known.items()):
            if left := bits & ~(1 << number):
                self._known[key] = left
            else:
                del self._known[key]

    def known(self, chain: Sequence[bytes], number: int) -> int:
        """Tokens of the longest prefix that a backend knows."""
        for place in range(len(chain), 0, -1):
            if self._known.get(chain[place - 1], 0) >> number & 1:
                return place * BLOCK
        return 0

    def choose(self, ids: Sequence[int], chain: Sequence[bytes], loads: Iterable[Load]) -> int:
        """The number of the backend that serves a prompt soonest; `loads` is not empty."""
        opening = chain[0] if chain else _digest(b"", ids)

        def cost(load: Load) -> tuple[int, bytes]:
            unread = len(ids) - self.known(chain, load.number)
            rank = hashlib.blake2b(b"%d" % load.number, key=opening, digest_size=8).digest()
            return unread + load.reading + STEP * load.decoding, rank

        return min(loads, key=cost).number


def chain_of(ids: Sequence[int]) -> list[bytes]:
    """A hash for each whole block, of all tokens up to its end."""
    chain: list[bytes] = []
    before = b""
    for first in range(0, len(ids) - BLOCK + 1, BLOCK):
        before = _digest(before, ids[first : first + BLOCK])
        chain.append(before)
    return chain


def _digest(before: bytes, ids: Sequence[int]) -> bytes:
    data = np.asarray(ids, dtype="<u4").tobytes()
    return hashlib.blake2b(before + data, digest_size=16).digest()
