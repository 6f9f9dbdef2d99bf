"""Technical English, and its Chinese."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from dsv4.data.document import Document
from dsv4.data.sources.archive import members, unzipped
from dsv4.data.sources.text import html_text, parts, pod_text, roff_text

Unpacker = Callable[[Path], Iterator[Document]]
_LISTS = re.compile(r"perl(?:toc|uniprops|\d+delta|delta|hist|cn|jp|ko|tw|intern|modlib)\.pod$")


def python(archive: Path) -> Iterator[Document]:
    """Python's documentation, as it is written."""
    for _, data in members(archive, "*/html/_sources/*.rst.txt"):
        yield from parts(data.decode("utf-8", "replace"))


def perl(archive: Path) -> Iterator[Document]:
    """Perl's manual, without its lists."""
    for name, data in members(archive, "*/pod/*.pod"):
        if not _LISTS.search(name):
            yield from parts(pod_text(data.decode("utf-8", "replace")))


def pages(archive: Path) -> Iterator[Document]:
    """Manual pages."""
    for _, data in members(archive, "usr/share/man/man*.gz", "usr/share/man/zh_CN/man*.gz"):
        source = unzipped(data).decode("utf-8", "replace")
        if not source.startswith(".so ") and len(text := roff_text(source)) > 200:
            yield from parts(text)


def html(*patterns: str, but: str = r"^$", cut: str = r"^$") -> Unpacker:
    """Pages in HTML, those whose names `but` finds left out, and of each what `cut` finds."""

    def unpack(archive: Path) -> Iterator[Document]:
        for name, data in members(archive, *patterns):
            if not re.search(but, name):
                text = html_text(data.decode("utf-8", "replace"))
                text = re.sub(cut, "", text, count=1, flags=re.DOTALL)
                yield from parts(text) if len(text) > 200 else ()

    return unpack


def stdlib(_: Path) -> Iterator[Document]:
    """The standard library of the Python that runs this, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        folders = path.relative_to(root).parts[:-1]
        if not {"test", "tests", "idle_test", "site-packages", "lib2to3"} & set(folders):
            text = path.read_text("utf-8", "replace")
            yield from parts(text) if text.strip() else ()
