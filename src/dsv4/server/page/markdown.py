"""Markdown → HTML that is safe to show: parsed with HTML off, then cut down to an allow-list.

Two independent locks: markdown-it writes what it does not know as text, and nh3 keeps only the
tags, attributes and link schemes named here. Formulas stay as written, images become links.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

TAGS = {
    *("p", "br", "hr", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "pre", "code"),
    *("a", "em", "strong", "s", "span", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "code": {"class"}}
CLASSES = {
    "span": {"math"},
    "p": {"math"},
    **{cell: {"left", "center", "right"} for cell in ("th", "td")},
}
SCHEMES = {"http", "https", "mailto"}

_LANGUAGE = re.compile(r"language-[\w+#.-]{1,40}")
_PAIRS = {"$$": "$$", r"\[": r"\]", r"\(": r"\)", "$": "$"}  # longest first
_LONGEST, _LINES = 4000, 60  # characters and lines of a formula: what never closes costs no more


def to_html(text: str) -> str:
    """The HTML of Markdown `text`: CommonMark, tables, ~~strike~~; a newline is a line break."""
    return nh3.clean(
        _MARKDOWN.render(text),
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=_keep,
        allowed_classes=CLASSES,
        url_schemes=SCHEMES,
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def _keep(tag: str, name: str, value: str) -> str | None:
    if (tag, name) == ("code", "class") and not _LANGUAGE.fullmatch(value):
        return None
    return value


def _math(state: StateInline, silent: bool) -> bool:
    """`$x$`, `$$x$$`, `\\(x\\)`, `\\[x\\]`; "$5 and $6" is none: a space, a digit."""
    start = state.pos
    opening = next((mark for mark in _PAIRS if state.src.startswith(mark, start)), None)
    if opening is None:
        return False
    closing, inside = _PAIRS[opening], start + len(opening)
    end = state.src.find(closing, inside, min(state.posMax, inside + _LONGEST))
    if end <= inside:
        return False
    stop = end + len(closing)
    if opening == "$":
        edges = state.src[inside] + state.src[end - 1]
        if any(edge.isspace() for edge in edges) or state.src[stop : stop + 1].isdigit():
            return False
    if not silent:
        state.push("math", "span", 0).content = state.src[start:stop]
    state.pos = stop
    return True


def _math_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """Lines from `$$` or `\\[` up to the one that ends in its partner, whatever stands between."""
    closing = _PAIRS.get(_line(state, first)[:2])
    if closing is None or state.is_code_block(first):
        return False
    for line in range(first, min(last, first + _LINES)):
        text = _line(state, line)
        if text and state.sCount[line] < state.blkIndent:
            return False  # the list item or quotation ends before the formula does
        body = text[2:] if line == first else text
        if closing not in body:
            continue
        if not body.endswith(closing):
            return False  # words follow: the inline rule takes it
        if not silent:
            token = state.push("math_block", "p", 0)
            token.content = state.getLines(first, line + 1, state.blkIndent, False)
            token.map = [first, line + 1]
            state.line = line + 1
        return True
    return False


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].rstrip()


def _show_math(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: EnvType
) -> str:
    tag, end = (tokens[i].tag, "\n" if tokens[i].block else "")
    return f'<{tag} class="math">{escapeHtml(tokens[i].content)}</{tag}>{end}'


def _show_image(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: EnvType
) -> str:
    """A link: nothing is loaded from elsewhere because a reply says so."""
    name = renderer.renderInlineAsText(tokens[i].children or [], options, env) or "image"
    address = str(tokens[i].attrGet("src") or "")
    return f'<a href="{escapeHtml(address)}">{escapeHtml(name)}</a>'


def _show_cell(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: EnvType
) -> str:
    """A class tells the side, since the page's policy forbids inline styles."""
    style = tokens[i].attrs.pop("style", None)
    if style is not None:
        tokens[i].attrSet("class", str(style).removeprefix("text-align:"))
    return renderer.renderToken(tokens, i, options, env)


def _show_heading(
    renderer: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: EnvType
) -> str:
    """Two levels down: the page's own headings stand above a reply's."""
    tokens[i].tag = f"h{min(int(tokens[i].tag[1]) + 2, 6)}"
    return renderer.renderToken(tokens, i, options, env)


def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True, "linkify": False})
    markdown.enable(["table", "strikethrough"])
    markdown.inline.ruler.before("escape", "math", _math)
    interrupts = ["paragraph", "reference", "blockquote", "list"]
    markdown.block.ruler.before("fence", "math_block", _math_block, {"alt": interrupts})
    for kind, rule in {
        "math": _show_math,
        "math_block": _show_math,
        "image": _show_image,
        "th_open": _show_cell,
        "td_open": _show_cell,
        "heading_open": _show_heading,
        "heading_close": _show_heading,
    }.items():
        markdown.add_render_rule(kind, rule)
    return markdown


_MARKDOWN = _markdown()
