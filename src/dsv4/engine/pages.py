"""The whole pages that a prefix cache holds, by the key of all tokens up to their end."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence

from dsv4.engine.kept import Page


class Pages:
    """Pages of `size` tokens. Each is also found by the key of the tokens before it."""

    def __init__(self, size: int):
        self.size = size
        self._pages: dict[bytes, Page] = {}
        self._after: dict[bytes, list[Page]] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def get(self, key: bytes) -> Page | None:
        """The page of a key."""
        return self._pages.get(key)

    def all(self) -> Collection[Page]:
        """Every page."""
        return self._pages.values()

    def add(
        self, keys: Sequence[bytes], number: int, depth: int, ids: Sequence[int], base: int = 0
    ) -> Page:
        """Page `depth` of ids, which begin at `base`, as the pool's page `number`; `keys` are those
        of its beginning and of its end."""
        before, key = keys
        first = depth * self.size - base
        page = Page(key, number, depth, before, array("i", ids[first : first + self.size]))
        self._pages[key] = page
        self._after.setdefault(before, []).append(page)
        return page

    def remove(self, page: Page) -> None:
        """Forget one."""
        del self._pages[page.key]
        after = self._after[page.before]
        after.remove(page)
        if not after:
            del self._after[page.before]

    def walk(self, keys: Sequence[bytes]) -> list[Page]:
        """Those that a prompt begins with, whose keys these are."""
        found: list[Page] = []
        for key in keys[1:]:
            page = self._pages.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def known(self, keys: Sequence[bytes], whole: int, ids: Sequence[int]) -> int:
        """Tokens of a prompt: those of the `whole` pages that are here, and of the next as far as
        it fits."""
        base = whole * self.size
        after = self._after.get(keys[whole], ())
        return base + max((common(page.tokens, ids, base) for page in after), default=0)


def common(tokens: Sequence[int], ids: Sequence[int], base: int) -> int:
    """How many of some tokens stand in the prompt from `base` on."""
    for n, token in enumerate(tokens):
        if base + n >= len(ids) or ids[base + n] != token:
            return n
    return len(tokens)
