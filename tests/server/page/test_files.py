"""What the page's paths answer, without a browser."""

import json
from contextlib import suppress

import httpx
import pytest

from dsv4.server.page import HEADERS, MAX_BODY, STATIC

from .scripted import serving


@pytest.fixture(scope="module")
def client():
    with serving() as server, httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", ["/", *(f"/static/{file.name}" for file in STATIC.iterdir())])
def test_every_file_is_served_under_the_policy(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    assert HEADERS.items() <= {k.title(): v for k, v in answer.headers.items()}.items()
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    assert client.head(path).headers["content-length"] == str(len(answer.content))


def test_the_policy_lets_nothing_in():
    directives = dict(d.split(" ", 1) for d in HEADERS["Content-Security-Policy"].split("; "))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "dsv4",
    }


@pytest.mark.parametrize(
    "path", ["/static/none.js", "/static/../__init__.py", "/static/%2e%2e/__init__.py", "/static/"]
)
def test_no_other_file_is_served(client, path):
    assert client.get(path).status_code == 404


def test_markdown_is_rendered(client):
    answer = client.post("/render", json={"text": "*a* <b>", "more": 1})
    assert answer.json() == {"html": "<p><em>a</em> &lt;b&gt;</p>\n"}
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"text": 1}',
        b'{"text": null}',
        b"{}",
        b'{"text": "\xff"}',
        b'{"text": "a", "b": ' + b"[" * 60_000 + b"]" * 60_000 + b"}",
        b"1e999",
        b'{"text": "\\ud800"}',
    ],
)
def test_a_bad_body_is_refused_in_words(client, body):
    answer = client.post("/render", content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["message"]


def test_a_body_is_bounded_before_it_is_read(client):
    def endless():
        for _ in range(10_000):
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    with suppress(httpx.WriteError):  # the server may close while more is sent
        assert client.post("/render", content=endless(), headers=headers).status_code == 413
    text = "a" * (MAX_BODY - len('{"text":""}'))
    for extra, status in (("", 200), ("a", 413)):
        body = json.dumps({"text": text + extra}, separators=(",", ":"))
        assert client.post("/render", content=body, headers=headers).status_code == status


def test_a_page_elsewhere_cannot_send_what_is_read(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/render", content=b'{"text": "a"}', headers={"Content-Type": kind})
        assert answer.status_code == 415


@pytest.mark.parametrize("file", sorted(STATIC.iterdir()), ids=lambda file: file.name)
def test_no_file_names_another_host_or_writes_markup(file):
    text = file.read_text()
    for address in ("https://", "http://www.w3.org/2000/svg", "http://"):
        if address.endswith("svg"):
            text = text.replace(address, "")  # a namespace, never fetched
        else:
            assert address not in text.replace("http://www.w3.org/2000/svg", "")
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "<script>",
    ):
        assert sink not in text
    if file.suffix == ".html":
        assert "style=" not in text and " on" not in text.replace(" on ", " ").replace(" one", "")
    assert ("parseFromString" in text) == (file.name == "render.js")
