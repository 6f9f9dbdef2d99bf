"""Chinese poems: title, author, verses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dsv4.data.document import Document
from dsv4.data.sources.archive import members


def poetry(archive: Path) -> Iterator[Document]:
    """Poems of Tang and Song, and songs of Song and Yuan."""
    folders = ("quantangshi/poet.*.json", "songci/ci.song.*.json", "yuanqu/yuanqu.json")
    for _, data in members(archive, *(f"package/dist/{folder}" for folder in folders)):
        for poem in json.loads(data):
            title = poem.get("title") or poem.get("rhythmic") or ""
            lines = [title, poem.get("author") or "", *poem.get("paragraphs", [])]
            yield Document("\n".join(line.strip() for line in lines if line.strip()))
