"""Prefixes that were computed before: pages of entries by content, and states to go on from.

    key_0 = identity,  key_k = H(key_{k−1}, tokens of page k)

A page is known by the key of all tokens up to its end, so equal prefixes share pages. A state (see
snapshot.py) makes a prefix one that can be continued: a wide one where a prompt or a reply ended
covers the `window` lengths before it, a narrow one stands every `period` tokens. A prompt reuses
the longest length that a state covers; the rest is read anew, which is the replay. Of the report's
policies, *full* is a period of one page, *periodic* a longer one. *Zero* keeps no states: windows
and tails are made anew by reading the last `replay` tokens before the known length once more,
between entries that are left as they are; then they are exact again:

    replay = (layers − 1)·(window − 1) + max(window, longest tail)

Of either kind the least worth goes first: see kept.py.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dsv4.config import Config, LayerKind
from dsv4.engine import snapshot
from dsv4.engine.kept import SHARE, Page, State, retire, worth
from dsv4.engine.pages import Pages, common
from dsv4.engine.pool import Pool
from dsv4.engine.shelf import Heading, Shelf
from dsv4.model.cache import SequenceState

GHOSTS = 1 << 16  # keys of evicted pages that are remembered


class Found(NamedTuple):
    """How much of a prompt is known: `length` tokens can be reused, by `state` or, without one, by
    `pages` alone; `missed` says why not more."""

    length: int
    state: State | None
    pages: list[Page]
    missed: str

    def without(self, missed: str) -> Found:
        """Nothing of it, and why."""
        return Found(0, None, [], missed)


@dataclass
class Counters:
    """What the cache did."""

    evicted_pages: int = 0
    evicted_states: int = 0


class PrefixCache:
    """Pages and states that finished work left in `pool`.

    `period`: tokens between narrow states, a multiple of a page; 0 is the policy *zero*.
    `state_bytes` bounds the snapshots.
    """

    def __init__(
        self,
        pool: Pool,
        identity: bytes,
        *,
        period: int,
        state_bytes: int,
        shelf: Shelf | None = None,
    ):
        if period % pool.page_tokens or period < 0:
            raise ValueError(f"period = {period}: must be a multiple of {pool.page_tokens}, or 0")
        self.pool, self.period, self.state_bytes = pool, period, state_bytes
        self.replay, self.shelf = replay_tokens(pool.stores.config), shelf
        self._root = hashlib.blake2b(identity, digest_size=16).digest()
        self._pages = Pages(pool.page_tokens)
        self._states: dict[bytes, list[State]] = {}
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()
        self._held_bytes = 0
        self._clock = 0
        self.counters = Counters()
        pool.evict = self.evict

    # ---- reuse -------------------------------------------------------------------------------

    def keys(self, ids: Sequence[int], root: bytes | None = None) -> list[bytes]:
        """key_0 … key_k for the k whole pages of ids, which begin behind `root`."""
        size, found = self.pool.page_tokens, [root or self._root]
        for first in range(0, len(ids) - size + 1, size):
            page = array("i", ids[first : first + size]).tobytes()
            found.append(hashlib.blake2b(found[-1] + page, digest_size=16).digest())
        return found

    def find(self, ids: Sequence[int]) -> Found:
        """The most that can be reused of a prompt, of which one token at least is read."""
        size, keys = self.pool.page_tokens, self.keys(ids)
        pages = self._pages.walk(keys)
        if self.shelf is not None:
            self._fetch(self.shelf, keys, ids, pages)
            pages = self._pages.walk(keys)
        best, chosen, known = 0, None, self._pages.known(keys, len(pages), ids)
        for depth in range(len(pages), -1, -1):
            for state in self._states.get(keys[depth], ()):
                until = state.base + common(state.tokens, ids, state.base)
                known = max(known, until)
                length = min(until, state.kept.length, len(ids) - 1)
                if length > best and length >= state.kept.length - state.kept.back:
                    best, chosen = length, state
        if chosen is None and not self.period:
            whole = min(len(pages), (len(ids) - 1) // size)
            best, pages = max(0, whole * size - self.replay), pages[:whole]
        return Found(best, chosen, pages, self._missed(best, known, keys, pages, ids))

    def _fetch(
        self, shelf: Shelf, keys: list[bytes], ids: Sequence[int], pages: list[Page]
    ) -> None:
        """Bring from disk what lets a prompt go on from further than memory does."""
        self._clock += 1
        for page in pages:
            page.used = self._clock
        for depth in range(len(pages), len(keys) - 1):
            if not self._fetch_page(shelf, keys[depth : depth + 2], depth, ids):
                break
        known = len(self._pages.walk(keys))
        for depth in range(known, -1, -1):
            mine = {(s.kept.length, s.tokens) for s in self._states.get(keys[depth], ())}
            for heading in shelf.headings(keys[depth]):
                until = heading.base + common(heading.tokens, ids, heading.base)
                covers = min(until, heading.length, len(ids) - 1) >= heading.length - heading.back
                if covers and (heading.length, heading.tokens) not in mine:
                    self._fetch_state(shelf, keys[depth], heading)

    def _fetch_page(
        self, shelf: Shelf, keys: Sequence[bytes], depth: int, ids: Sequence[int], base: int = 0
    ) -> bool:
        """Whether a page is in memory, from disk if need be: see `Pages.add`."""
        key = keys[-1]
        if self._pages.get(key) is not None:
            return True
        stored = shelf.page(key)
        if stored is None:
            return False
        number, end = stored
        self._pages.add(keys, number, depth, ids, base).used = self._clock
        if end is not None and self.period:
            self._add_state(State(key, (depth + 1) * self.pool.page_tokens, (), (), end))
        return True

    def _fetch_state(self, shelf: Shelf, key: bytes, heading: Heading) -> None:
        size = self.pool.page_tokens
        depth = heading.base // size
        keys, ids, base = self.keys(heading.tokens, key), heading.tokens, heading.base
        for n in range(len(keys) - 1):
            if not self._fetch_page(shelf, keys[n : n + 2], depth + n, ids, base):
                return
        numbers = [page.number for page in self._pages.walk(keys)]
        if len(numbers) < len(keys) - 1:  # pushed out by the others
            return
        self.pool.share(numbers)
        stored = shelf.state(heading)
        if stored is None:
            self.pool.give(numbers)
            return
        kept, last = stored
        pages = numbers if last is None else [*numbers, last]
        self._add_state(State(key, heading.base, heading.tokens, pages, kept))

    def _add_state(self, state: State) -> None:
        state.used = self._clock
        self._states.setdefault(state.key, []).append(state)
        self._held_bytes += state.kept.nbytes
        if self._held_bytes <= self.state_bytes:
            return
        retire(self._all_states(), lambda kept: kept.kept.nbytes, SHARE * self.state_bytes)
        goal = self.state_bytes - self.state_bytes // 64  # not one by one
        for kept in sorted(self._all_states(), key=worth):
            if self._held_bytes <= goal:
                break
            self._drop_state(kept)

    def reuse(self, sequence: SequenceState, found: Found) -> None:
        """Make an empty sequence one of the `found.length` tokens that are known."""
        state = found.state
        if found.length == 0:
            return
        self._clock += 1
        size, pool = self.pool.page_tokens, self.pool
        if state is None:
            sequence.pages = array("i", [page.number for page in found.pages])
            pool.share(sequence.pages)
            for page in found.pages:
                page.hits, page.used = page.hits + 1, self._clock
            sequence.length = found.length
            sequence.known = len(found.pages) * size
            sequence.reached = found.length + pool.stores.config.sliding_window
            return
        shared = [page.number for page in found.pages[: state.base // size]]
        own = state.pages[: -(-(found.length - state.base) // size)]
        sequence.pages = array("i", [*shared, *own])
        pool.share(sequence.pages)
        for page in found.pages[: found.length // size]:
            page.hits, page.used = page.hits + 1, self._clock
        state.hits, state.used = state.hits + 1, self._clock
        if found.length % size:  # two would write to the last page
            last = sequence.pages.pop()
            try:
                sequence.pages.append(pool.copy_page(last))
            finally:
                pool.give([last])
        snapshot.put(pool.stores, sequence, state.kept, found.length)

    def _missed(
        self, best: int, known: int, keys: list[bytes], pages: list[Page], ids: Sequence[int]
    ) -> str:
        if best >= len(ids) - 1:
            return ""
        if best < min(known, len(ids) - 1):
            return f"policy: {known} tokens are known, the nearest state to go on from is at {best}"
        if len(pages) + 1 < len(keys) and keys[len(pages) + 1] in self._ghosts:
            return f"evicted: from token {len(pages) * self.pool.page_tokens} on"
        return f"token {known} is the first that is not known"

    # ---- remembering -------------------------------------------------------------------------

    def remember(self, ids: Sequence[int], sequence: SequenceState) -> None:
        """Keep a sequence's pages, and a state at its length. `ids`: its tokens, seen or not."""
        self._clock += 1
        length = sequence.length
        keys = self.keys(ids[:length])
        self._keep_pages(keys, ids, sequence)
        if length and self.period:
            self._keep_state(keys, ids, sequence, length, wide=True)
        if self.shelf is not None:
            self._shelve(self.shelf, keys)

    def _shelve(self, shelf: Shelf, keys: list[bytes]) -> None:
        """Have the pages and states of a prefix written that are not on disk."""
        size = self.pool.page_tokens
        for depth, key in enumerate(keys):
            states = self._states.get(key, ())
            page = self._pages.get(key)
            if page is not None:
                ends = [s.kept for s in states if not s.tokens and s.base == depth * size]
                shelf.keep_page(key, page.number, ends[0] if ends else None)
            for state in states:
                if state.tokens and state.used == self._clock:
                    whole = state.kept.length % size == 0
                    last = None if whole else state.pages[-1]
                    shelf.keep_state(key, state.base, state.tokens, state.kept, last)

    def remember_boundaries(self, ids: Sequence[int], sequence: SequenceState, since: int) -> None:
        """Narrow states at the multiples of `period` between `since` and the sequence's length."""
        if not self.period:
            return
        self._clock += 1
        keys = self.keys(ids[: sequence.length])
        self._keep_pages(keys, ids, sequence)
        oldest = max(sequence.oldest(self.pool.stores.config.sliding_window), since + 1)
        first = -(-oldest // self.period) * self.period
        for length in range(first, sequence.length + 1, self.period):
            self._keep_state(keys, ids, sequence, length, wide=False)

    def _keep_pages(self, keys: list[bytes], ids: Sequence[int], sequence: SequenceState) -> None:
        for depth, key in enumerate(keys[1:]):
            page = self._pages.get(key)
            if page is None:
                number = sequence.pages[depth]
                self.pool.share([number])
                page = self._pages.add(keys[depth : depth + 2], number, depth, ids)
                self._ghosts.pop(key, None)
            page.used = self._clock

    def _keep_state(
        self,
        keys: list[bytes],
        ids: Sequence[int],
        sequence: SequenceState,
        length: int,
        *,
        wide: bool,
    ) -> None:
        size = self.pool.page_tokens
        window = self.pool.stores.config.sliding_window
        back = min(window, length - sequence.oldest(window)) if wide else 0
        depth = (length - back) // size
        base = depth * size
        tokens = tuple(ids[base:length])
        for state in self._states.get(keys[depth], ()):
            if state.kept.length == length and state.tokens == tokens and state.kept.back >= back:
                state.used = self._clock
                return
        kept = snapshot.take(self.pool.stores, sequence, length, wide=wide)
        pages = list(sequence.pages[depth : -(-length // size)])
        self.pool.share(pages)
        self._add_state(State(keys[depth], base, tokens, pages, kept))

    # ---- forgetting --------------------------------------------------------------------------

    def evict(self, wanted: int) -> int:
        """Give back the least worth until `wanted` pages more are free; how many are."""
        before = self.pool.free_pages
        goal = before + max(wanted, self.pool.stores.pages // 64)  # not one by one
        progress = True
        retire(self._pages.all(), lambda page: 1, SHARE * self.pool.stores.pages)
        while progress and self.pool.free_pages < goal:
            progress = False
            everything: list[Page | State] = [*self._all_states(), *self._pages.all()]
            for kept in sorted(everything, key=worth):
                if self.pool.free_pages >= goal:
                    break
                if isinstance(kept, State):
                    self._drop_state(kept)
                elif self.pool.holders(kept.number) == 1:
                    self._drop_page(kept)
                else:  # it would stay: somebody uses it
                    continue
                progress = True
        return self.pool.free_pages - before

    def emptied(self, pool: Pool) -> PrefixCache:
        """A cache of the same settings that knows nothing."""
        fresh = PrefixCache(pool, b"", period=self.period, state_bytes=self.state_bytes)
        fresh._root, fresh.counters = self._root, self.counters
        if self.shelf is not None:
            fresh.shelf = Shelf(self.shelf.store, pool)
        return fresh

    def clear(self) -> None:
        """Forget all."""
        for state in list(self._all_states()):
            self._drop_state(state)
        for page in list(self._pages.all()):
            self._drop_page(page)

    def _all_states(self) -> Iterator[State]:
        return (state for states in self._states.values() for state in states)

    def _drop_state(self, state: State) -> None:
        states = self._states[state.key]
        states.remove(state)
        if not states:
            del self._states[state.key]
        self.pool.give(state.pages)
        self._held_bytes -= state.kept.nbytes
        self.counters.evicted_states += 1

    def _drop_page(self, page: Page) -> None:
        self._pages.remove(page)
        self.pool.give([page.number])
        self.counters.evicted_pages += 1
        self._ghosts[page.key] = None
        while len(self._ghosts) > GHOSTS:
            self._ghosts.popitem(last=False)

    @property
    def held_bytes(self) -> int:
        """Bytes of the snapshots."""
        return self._held_bytes

    @property
    def held_pages(self) -> int:
        """Whole pages that the cache holds."""
        return len(self._pages)


def replay_tokens(config: Config) -> int:
    """Tokens after which a sequence that began with lost windows and tails has exact ones again."""
    halves = {LayerKind.CSA: 2, LayerKind.HCA: 1, LayerKind.SLIDING: 0}
    ratios = zip(config.layer_kinds, config.compress_ratios, strict=False)
    tail = max(halves[kind] * ratio for kind, ratio in ratios)
    window = config.sliding_window
    return (config.num_hidden_layers - 1) * (window - 1) + max(window, tail)
