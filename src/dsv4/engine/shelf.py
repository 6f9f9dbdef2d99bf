"""What of the prefix cache stands on disk, as files of a DiskStore.

KEY.page        a whole page's entries in every layer; the narrow state at its end, if one is kept
KEY.HASH.state  a wide state whose tokens begin behind KEY, and the entries of its last page
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.engine.disk import DiskStore
from dsv4.engine.pool import Pool
from dsv4.engine.snapshot import Snapshot


@dataclass(frozen=True)
class Heading:
    """What a state file says of itself: its tokens from `base` on, and the lengths it covers."""

    name: str
    base: int
    tokens: tuple[int, ...]
    length: int
    back: int


class Shelf:
    """Reads and writes pages and states of `pool`'s model."""

    def __init__(self, store: DiskStore, pool: Pool):
        self.store, self.pool = store, pool
        self._headings: dict[str, Heading | None] = {}

    # ---- pages ---------------------------------------------------------------------------------

    def keep_page(self, key: bytes, page: int, end: Snapshot | None) -> None:
        """Have a page written, with the state at its end."""
        name = f"{key.hex()}.page"
        if not self.store.holds(name):
            rows = [] if end is None else end.rows
            header = {"length": 0 if end is None else end.length}
            self.store.write(name, header, [*self._entries(page), *rows])

    def page(self, key: bytes) -> tuple[int, Snapshot | None] | None:
        """A page of the pool with the entries that are on disk, and the state at its end."""
        name = f"{key.hex()}.page"
        if name not in self.store.group(key.hex()):
            return None
        stored = self.store.read(name)
        if stored is None:
            return None
        count = len(self._stores)
        page = self._placed(stored.tensors[:count])
        length = stored.header.get("length")
        if page is None or not isinstance(length, int):
            return None
        return page, Snapshot(length, 0, stored.tensors[count:]) if length else None

    # ---- states --------------------------------------------------------------------------------

    def keep_state(
        self, key: bytes, base: int, tokens: Sequence[int], kept: Snapshot, last: int | None
    ) -> None:
        """Have a state written; `last` is the pool's page that its tokens do not fill."""
        content = hashlib.blake2b(array("i", tokens).tobytes(), digest_size=8).hexdigest()
        name = f"{key.hex()}.{content}.state"
        if not self.store.holds(name):
            header = {"base": base, "tokens": [*tokens], "length": kept.length, "back": kept.back}
            entries = [] if last is None else self._entries(last)
            self.store.write(name, header, [*entries, *kept.rows])

    def headings(self, key: bytes) -> list[Heading]:
        """The states on disk whose tokens begin behind `key`."""
        found = []
        for name in self.store.group(key.hex()):
            if name.endswith(".state"):
                if name not in self._headings:
                    self._headings[name] = self._heading(name)
                heading = self._headings[name]
                if heading is not None:
                    found.append(heading)
        return found

    def _heading(self, name: str) -> Heading | None:
        header = self.store.header(name)
        if header is None:
            return None
        try:
            tokens = tuple(map(int, header["tokens"]))
            base, length, back = (int(header[field]) for field in ("base", "length", "back"))
        except (KeyError, TypeError, ValueError):
            return None
        fits = base + len(tokens) == length and base % self.pool.page_tokens == 0
        return Heading(name, base, tokens, length, back) if fits else None

    def state(self, heading: Heading) -> tuple[Snapshot, int | None] | None:
        """A state that is on disk, and a page of the pool with the entries of its last page."""
        stored = self.store.read(heading.name)
        if stored is None:
            self._headings.pop(heading.name, None)
            return None
        tensors, last = stored.tensors, None
        if heading.length % self.pool.page_tokens:
            count = len(self._stores)
            last = self._placed(tensors[:count])
            tensors = tensors[count:]
            if last is None:
                return None
        return Snapshot(heading.length, heading.back, tensors), last

    # ---- entries -------------------------------------------------------------------------------

    @property
    def _stores(self) -> list[Tensor]:
        return [entries.data for layer in self.pool.stores.layers for entries in layer.entries]

    def _entries(self, page: int) -> list[Tensor]:
        return [data[page].clone() for data in self._stores]

    def _placed(self, tensors: Sequence[Tensor]) -> int | None:
        """A page of the pool that holds these entries; None if they are another model's, or none
        is free."""
        stores = self._stores
        shapes = [(data.shape[1:], data.dtype) for data in stores]
        if [(torch.Size(t.shape), t.dtype) for t in tensors] != shapes or not self.pool.ensure(1):
            return None
        page = self.pool.take()
        for data, tensor in zip(stores, tensors, strict=True):
            data[page] = tensor
        return page
