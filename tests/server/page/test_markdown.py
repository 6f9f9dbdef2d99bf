"""What POST /render makes of replies: formatting stays, whatever could act does not."""

from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4.server.page.markdown import ATTRIBUTES, CLASSES, SCHEMES, TAGS, to_html

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg/onload=alert(1)>",
    "<style>*{background:url(http://evil)}</style>",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "[x](//evil.example/a)",
    "[x](/v1/models)",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml,<svg/onload=alert(1)>)",
    '[x](http://a.example "t\\" onmouseover=alert(1)")',
    '```x" onload="alert(1)\ncode\n```',
    "``` <script>\n</code></pre><script>alert(1)</script>\n```",
    "$<img src=x onerror=alert(1)>$",
    "$$\n<script>alert(1)</script>\n$$",
    "\\[<svg onload=alert(1)>\\]",
    "| <script> | b |\n|:-:|--:|\n| <b onclick=x> | `</td>` |",
    "# <h1 id=log>",
    "&lt;script&gt;&#60;script&#62;",
    "[a]: javascript:alert(1)\n\n[a]",
    "<!-- --!> <script>alert(1)</script> -->",
    "<p title='</noscript><img src=x onerror=alert(1)>'>",
]


class Reader(HTMLParser):
    """The tags of an HTML text, by a parser that is not the one which wrote it."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = handle_comment


def check(html):
    for tag, attributes in Reader(html).tags:
        assert tag in TAGS, tag
        for name, value in attributes.items():
            known = name in ATTRIBUTES.get(tag, ()) or (tag == "a" and name in ("rel", "target"))
            assert known or (name == "class" and set(value.split()) <= CLASSES.get(tag, set()))
        if tag == "a":
            assert attributes["rel"] == "noopener noreferrer nofollow"
        if "href" in attributes:
            assert urlsplit(attributes["href"]).scheme in SCHEMES


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_acts_comes_through(text):
    html = to_html(text)
    check(html)
    if not text.startswith(("[", "!", "`", "|", "&", "#")):
        assert "".join(Reader(html).text.split()) == "".join(
            text.split()
        )  # shown as it was written


pieces = st.sampled_from([*HOSTILE, *"<>\"'&`*_[]()!|\\$#~: \n", "javascript:", "http://a.b"])


@given(st.lists(pieces | st.text(max_size=6), max_size=12).map("".join))
def test_drawn_mixtures_hold_only_what_is_allowed(text):
    check(to_html(text))


def test_what_a_reply_uses_is_formatted():
    html = to_html(
        "# One\n\n**b** *i* ~~s~~ `c`\n\n- x\n\n3. y\n\n> q\n\n---\n\n"
        "```python\n1 < 2\n```\n\nl1\nl2"
    )
    assert "<h3>One</h3>" in html  # under the page's own headings
    assert "<strong>b</strong> <em>i</em> <s>s</s> <code>c</code>" in html
    assert '<ol start="3">' in html
    assert '<pre><code class="language-python">1 &lt; 2\n</code></pre>' in html
    assert "l1<br>\nl2" in html


def test_links_open_elsewhere_and_tell_nothing():
    assert to_html("[t](https://a.example/b?c=1 'd')") == (
        '<p><a href="https://a.example/b?c=1" title="d" target="_blank" '
        'rel="noopener noreferrer nofollow">t</a></p>\n'
    )


def test_an_image_becomes_a_link():
    html = to_html("![a *cat*](https://a.example/cat.png)")
    assert ">a cat</a>" in html and 'href="https://a.example/cat.png"' in html
    assert "<img" not in html


@pytest.mark.parametrize(
    "text",
    [
        "$a_1*b_2*c$",
        "$$a_1*b*c$$",
        r"\(a*b*c\)",
        r"\[a*b*c\]",
        "$$\na\n= b\n- c\n\n# d\n$$",
        "\\[\na _b_\n- c\n\\]",
        r"$\{x\}$",
    ],
)
def test_a_formula_stays_as_it_is_written(text):
    (_, attributes), *rest = [tag for tag in Reader(to_html(text)).tags if tag[1]]
    assert attributes == {"class": "math"} and not rest
    assert Reader(to_html(text)).text.strip() == text


@pytest.mark.parametrize(
    "text", ["it costs $5 and $10", "$ a $", "$HOME *and* $PATH", "$$ unclosed *x*", "$a$1"]
)
def test_dollars_that_are_no_formula(text):
    assert "math" not in to_html(text)


def test_a_side_is_a_class_not_a_style():
    html = to_html("|a|b|\n|:-:|--:|\n|1|2|")
    assert '<td class="center">1</td>' in html and '<td class="right">2</td>' in html
    assert "style" not in html
