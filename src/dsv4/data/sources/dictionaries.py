"""Dictionaries in the form of dictd: entries as prose, and, for WordNet, as questions too."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path

from dsv4.data.document import Document
from dsv4.data.sources.archive import members, unzipped

_DIGITS = {
    letter: value
    for value, letter in enumerate(string.ascii_uppercase + string.ascii_lowercase + "0123456789+/")
}
_KINDS = {"n": "noun", "v": "verb", "adj": "adjective", "adv": "adverb"}


def entries(archive: Path, name: str) -> Iterator[tuple[str, str]]:
    """Headword and text of every entry, each once, in the order of the text."""
    files = {
        path.rpartition("/")[2]: data
        for path, data in members(archive, f"*/{name}.index", f"*/{name}.dict.dz")
    }
    text = unzipped(files[f"{name}.dict.dz"])
    places: dict[tuple[int, int], str] = {}
    for line in files[f"{name}.index"].decode("utf-8", "replace").splitlines():
        word, start, size = line.split("\t")[:3]
        if not re.match("00-?database|fkt|missing definition", word, re.IGNORECASE):
            places.setdefault((_number(start), _number(size)), word)
    for (begin, length), word in sorted(places.items()):
        yield word, text[begin : begin + length].decode("utf-8", "replace")


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def foldoc(archive: Path) -> Iterator[Document]:
    """The free on-line dictionary of computing."""
    for _, text in entries(archive, "foldoc"):
        text = re.sub(r"\n*\s*\(\d{4}-\d\d-\d\d\)\s*$", "", text.replace("{", "").replace("}", ""))
        yield Document(_paragraphs(text))


def gcide(archive: Path) -> Iterator[Document]:
    """Webster's of 1913 and what was added: without pronunciations and marks of origin."""
    for _, text in entries(archive, "gcide"):
        text = re.sub(r"\[(?:1913 Webster|PJC|WordNet[^]]*|Webster[^]]*|Century[^]]*)\]", "", text)
        text = re.sub(r"\s*\\[^\\\n]*\\", "", text.replace("{", "").replace("}", ""))
        yield Document(_paragraphs(text))


def _paragraphs(text: str) -> str:
    """Lines of a paragraph joined; what is set in further is a paragraph of its own."""
    blocks = re.split(r"\n\s*\n|\n(?=\s+(?:\d+\.|\([a-z]\)|Syn:|Note:) )", text.strip())
    return "\n".join(" ".join(block.split()) for block in blocks if block.strip())


def wordnet(archive: Path) -> Iterator[Document]:
    """What words mean: half as entries, half as a question and its answer, by the word's hash."""
    for word, text in entries(archive, "wn"):
        senses = list(_senses(text))
        name = text.partition("\n")[0].strip() or word
        if not senses:
            continue
        plain = Document(f"{name}: " + " ".join(f"({kind}) {said}" for kind, said in senses))
        if plain.digest()[8] % 2:
            yield plain
            continue
        kind, said = senses[0]
        article = "an" if kind[0] == "a" else "a"
        answer = f"{name[:1].upper()}{name[1:]} is {article} {kind}: {said}"
        yield Document.exchange(f'What does "{name}" mean?', answer)


def _senses(text: str) -> Iterator[tuple[str, str]]:
    """Kind and definition of each sense, as sentences."""
    body = " ".join(text.partition("\n")[2].split())
    kind = ""
    for found in re.finditer(
        r"(?:^|\s)(?:(n|v|adj|adv) )?(?:\d+)?: (.*?)(?=\s(?:(?:n|v|adj|adv) )?\d+: |$)", body
    ):
        kind = _KINDS.get(found[1], kind)
        said, _, words = found[2].partition(" [syn: ")
        same = re.findall(r"\{([^}]*)\}", words)
        said = re.sub(r"[{}]", "", said.partition(" [ant: ")[0]).rstrip(" ;") + "."
        if len(same) > 1:
            said += f" Also: {', '.join(same)}."
        if kind:
            yield kind, said
