"""What sequences are made of: slots for windows and tails, counted pages for compressed entries.

A page may be held by several sequences and by the prefix cache; it is free when nobody holds it.
Entries are only ever appended, so a holder of the first k entries of a page is not disturbed by one
who writes the next: only two writers of one page need a copy.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

from dsv4.model.cache import SequenceState, Stores


class OutOfMemoryError(RuntimeError):
    """No slot or no page is free."""


class Pool:
    """The slots and pages of `stores`, and who holds them."""

    def __init__(self, stores: Stores):
        self.stores = stores
        self._slots = list(range(stores.slots - 1, -1, -1))
        self._free = list(range(stores.pages - 1, -1, -1))
        self._holders = array("i", [0] * stores.pages)
        self.evict: Callable[[int], int] = lambda wanted: 0  # the prefix cache's; pages given back

    # ---- accounting --------------------------------------------------------------------------

    @property
    def page_tokens(self) -> int:
        """Tokens of a page."""
        return self.stores.page_tokens

    @property
    def free_slots(self) -> int:
        """Sequences that could be opened now."""
        return len(self._slots)

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots and pages that are held."""
        slots = self.stores.slots - self.free_slots
        pages = self.stores.pages - self.free_pages
        return slots * self.stores.slot_bytes + pages * self.stores.page_bytes

    def pages_for(self, tokens: int) -> int:
        """Pages that a sequence of `tokens` tokens holds."""
        return -(-tokens // self.page_tokens)

    def ensure(self, pages: int) -> bool:
        """Whether `pages` pages are free, cached ones given back where that helps."""
        if self.free_pages < pages:
            self.evict(pages - self.free_pages)
        return self.free_pages >= pages

    # ---- sequences ---------------------------------------------------------------------------

    def open(self) -> SequenceState:
        """An empty sequence in a slot of its own. Raises OutOfMemoryError."""
        if not self._slots:
            raise OutOfMemoryError(f"all {self.stores.slots} slots are taken")
        return SequenceState(self._slots.pop())

    def close(self, sequence: SequenceState) -> None:
        """Give back the slot and the pages of a sequence."""
        self._slots.append(sequence.slot)
        self.give(sequence.pages)
        sequence.pages = array("i")

    def wipe(self, sequence: SequenceState) -> None:
        """Zero what a sequence alone holds: numbers that are not finite must not stay."""
        own = [page for page in sequence.pages if self._holders[page] == 1]
        for layer in self.stores.layers:
            for ring in layer.rings:
                ring.data[sequence.slot] = 0
            for entries in layer.entries:
                entries.data[own] = 0

    def wipe_all(self) -> None:
        """Zero everything."""
        for layer in self.stores.layers:
            for data in [store.data for store in layer.rings] + [e.data for e in layer.entries]:
                data.zero_()

    # ---- pages -------------------------------------------------------------------------------

    def take(self) -> int:
        """A page for a new holder. Raises OutOfMemoryError."""
        if not self.ensure(1):
            raise OutOfMemoryError(f"all {self.stores.pages} pages are held")
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def share(self, pages: Iterable[int]) -> None:
        """One holder more of each page."""
        for page in pages:
            assert self._holders[page] > 0, "a free page cannot be shared"
            self._holders[page] += 1

    def give(self, pages: Iterable[int]) -> None:
        """One holder less of each page."""
        for page in pages:
            self._holders[page] -= 1
            if self._holders[page] == 0:
                self._free.append(page)

    def holders(self, page: int) -> int:
        """How many hold a page."""
        return self._holders[page]

    def copy_page(self, page: int) -> int:
        """A page of its own with the entries of `page`, which keeps its holders."""
        new = self.take()
        for layer in self.stores.layers:
            for entries in layer.entries:
                entries.data[new] = entries.data[page]
        return new
