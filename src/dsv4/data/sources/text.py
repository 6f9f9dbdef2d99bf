"""Marked-up text → plain text: HTML, roff, POD, lines that were wrapped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from dsv4.data.document import Document

LONG = 20_000  # letters from which on a text is cut at its next blank line
_BLOCKS = set(
    "p div h1 h2 h3 h4 h5 h6 li dt dd tr table ul ol dl pre section blockquote br".split()
)
_SKIPPED = {"script", "style", "head", "nav", "footer"}


def unwrap(text: str) -> str:
    """Paragraphs in one line each, a blank line between."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
    joined = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return "\n\n".join(paragraph for paragraph in joined if paragraph)


def parts(text: str, least: int = LONG) -> Iterator[Document]:
    """A long text as documents of at least `least` letters, each whole paragraphs."""
    held: list[str] = []
    size = 0
    for paragraph in text.strip().split("\n\n"):
        held.append(paragraph)
        size += len(paragraph)
        if size >= least:
            yield Document("\n\n".join(held))
            held, size = [], 0
    if held and "".join(held).strip():
        yield Document("\n\n".join(held))


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.out: list[str] = []
        self.skipped = self.preformatted = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.skipped += tag in _SKIPPED
        self.preformatted += tag == "pre"
        if tag in _BLOCKS:
            self.out.append("\n- " if tag == "li" else "\n")

    def handle_endtag(self, tag: str) -> None:
        self.skipped -= tag in _SKIPPED and self.skipped > 0
        self.preformatted -= tag == "pre" and self.preformatted > 0
        if tag in _BLOCKS:
            self.out.append("\n" if tag in ("li", "tr", "dt", "br") else "\n\n")

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.out.append(data if self.preformatted else re.sub(r"\s+", " ", data))


def html_text(html: str) -> str:
    """What an HTML page says, a line a block."""
    parser = _Text()
    parser.feed(html)
    text = re.sub(r"[ \t]+\n", "\n", "".join(parser.out).replace("\u00b6", "").replace("\xa0", " "))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


_ESCAPES = {"-": "-", "e": "\\", "&": "", "(aq": "'", "(dq": '"', "(bu": "-", "(em": "—", " ": " "}
_ESCAPE = re.compile(r"\\(f(?:\(..|\[\w*\]|.)|s[+-]?\d+|\*?\(..|\*?\[\w+\]|\".*|.)")


def roff_text(source: str) -> str:
    """A manual page (macros of man) as text; what it does not know is left out."""
    out: list[str] = []
    for line in re.sub(r"^[.'] *de.*?^\.\.$", "", source, flags=re.M | re.S).splitlines():
        request, _, rest = line[1:].strip().partition(" ") if line[:1] in ".'" else ("", "", line)
        if not line[:1] or line[0] not in ".'":
            out.append(_inline(line))
        elif request in ("SH", "SS", "TH"):
            out.append(f"\n\n{_inline(' '.join(_words(rest)[: 1 if request == 'TH' else 9]))}\n\n")
        elif request in ("PP", "P", "LP", "TP", "IP", "HP", "sp", "nf", "EX"):
            out.append("\n\n" + _inline(" ".join(_words(rest)[:1]) if request == "IP" else ""))
        elif request in ("B", "I", "SM", "SB"):
            out.append(_inline(" ".join(_words(rest))))
        elif re.fullmatch("[BIR]{2}", request):
            out.append(_inline("".join(_words(rest))))
    return unwrap("\n".join(out))


def _words(rest: str) -> list[str]:
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', rest)]


def _inline(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], ""), text)


_POD = re.compile(r"[A-Z](?:<<+\s(.*?)\s>>+|<([^<>]*)>)", re.DOTALL)


def pod_text(source: str) -> str:
    """Perl's documentation as text: headings and items as lines, formatting codes removed."""
    text = re.sub(r"^=(?:cut|pod|over|back|encoding|begin|end|for|X)\b.*$", "", source, flags=re.M)
    text = re.sub(r"^=(?:head\d|item)\s*", "", text, flags=re.M)
    for _ in range(4):  # codes inside codes
        text = _POD.sub(lambda found: _pod(found[0][0], found[1] or found[2] or ""), text)
    text = text.replace("\0", "<").replace("\1", ">")  # which no code may close in between
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _pod(code: str, inner: str) -> str:
    if code in "XZ":
        return ""
    if code == "E":
        return {"lt": "\0", "gt": "\1", "verbar": "|", "sol": "/"}.get(inner, "")
    return inner.partition("|")[0] if code == "L" else inner
