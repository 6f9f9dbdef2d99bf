"""What goes over the socket is the same with either of uvicorn's parsers, h11 or httptools."""

import json
import socket
import threading
import time

import httpx
import pytest
from server.engines import Scripted
from server.running import MODEL, serving
from server.test_chat import EOS
from server.test_life import until

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module", params=["h11", "httptools"])
def wire(request, tokenizer):
    if request.param == "httptools":
        pytest.importorskip("httptools")
    with serving(Scripted(tokenizer), tokenizer, http=request.param, patience=1.0) as running:
        yield running


class Socket:
    """A connection that sends what it is told to."""

    def __init__(self, url):
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)
        self._socket = socket.create_connection((self.host, self.port), 10)
        self.read = self._socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.read.close()
        self._socket.close()

    def send(self, data):
        self._socket.sendall(data if isinstance(data, bytes) else data.encode())

    def ask(self, method, path, body=b"", *more):
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", *more]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def answer(self, head=False):
        """Status, headers, body of the next response; a status of None where there is none."""
        line = self.read.readline()
        if not line:
            return None, {}, b""
        status, headers = int(line.split()[1]), {}
        while (line := self.read.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.decode().lower()] = value.strip().decode()
        if head or status in (100, 204, 304):
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.read.readline(), 16):
                body += self.read.read(size)
                self.read.readline()
            self.read.readline()
            return status, headers, body
        return status, headers, self.read.read(int(headers.get("content-length", -1)))


def test_one_connection_serves_all_kinds_of_requests_in_turn(wire):
    wire.say(f"</think>Good day.{EOS}")
    with Socket(wire.url) as one:
        for _ in range(2):
            for body in (BODY, BODY | {"stream": True}):
                one.ask("POST", PATH, body)
                status, headers, data = one.answer()
                assert status == 200 and b"day" in data
                assert headers.get("connection") != "close"
            one.ask("POST", PATH, b"{")
            assert one.answer()[0] == 400
            one.ask("POST", PATH, BODY, "Origin: https://evil.example")  # its body is never read
            assert one.answer()[0] == 403
            one.ask("HEAD", "/v1/models")
            status, headers, _ = one.answer(head=True)
            assert status == 200 and int(headers["content-length"]) > 0
            one.ask("HEAD", PATH)
            assert one.answer(head=True)[0] == 405
            one.ask("OPTIONS", PATH)
            assert one.answer()[0] == 204
            one.ask("GET", "/nowhere")
            assert one.answer()[0] == 404


def test_requests_that_do_not_wait_are_answered_in_their_order(wire):
    wire.say(f"</think>Good day.{EOS}")
    with Socket(wire.url) as one:
        one.ask("GET", "/health")
        one.ask("POST", PATH, BODY | {"stream": True})
        one.ask("POST", "/tokenize", {"prompt": "x"})
        one.ask("GET", "/nowhere")
        answers = [one.answer() for _ in range(4)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 404]
    assert answers[1][2].endswith(b"data: [DONE]\n\n") and b"tokens" in answers[2][2]


def test_continue_is_said_where_the_body_is_wanted(wire):
    more = ("Content-Length: 15", "Expect: 100-continue")
    with Socket(wire.url) as one:
        for _ in range(2):
            one.ask("POST", "/tokenize", b"", *more)
            assert one.answer()[0] == 100
            one.send(b'{"prompt": "x"}')
            assert one.answer()[0] == 200
    for refusal, status in (
        ("Origin: https://evil.example", 403),
        ("Content-Length: 99999999", 413),
    ):
        with Socket(wire.url) as one:
            expect = more if "Origin" in refusal else more[1:]
            one.ask("POST", "/tokenize", b"", refusal, *expect)
            assert one.answer()[0] == status  # and no 100 before it


def test_bodies_in_chunks(wire):
    head = ("POST", "/tokenize", b"", "Transfer-Encoding: chunked")
    with Socket(wire.url) as one:
        one.ask(*head)
        for piece in (b'{"pro', b'mpt": ', b'"x"}'):
            one.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            time.sleep(0.01)
        one.send("0\r\n\r\n")
        assert one.answer()[0] == 200
        one.ask(*head)
        one.send("zz\r\nno size\r\n\r\n")
        assert one.answer()[0] in (400, None)
    assert wire.http.get("/health").is_success


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"GET /health HTTP/1.1\r\nHost x\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: many\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
        b"\r\n" * 100_000,
        bytes(range(256)) * 64,
    ],
    ids=["words", "version", "TLS", "header", "length", "long header", "line ends", "bytes"],
)
def test_what_is_no_request_harms_nobody(wire, data):
    with Socket(wire.url) as one:
        try:
            one.send(data)
            one._socket.shutdown(socket.SHUT_WR)
            status = one.answer()[0]
        except (OSError, ValueError, IndexError):
            status = None
        assert status is None or 400 <= status < 500 or data.startswith(b"GET /health")
    assert wire.http.get("/health").is_success
    until(lambda: wire.service.metrics.open == 0)


def test_a_body_that_stays_out_is_given_up(wire):
    with Socket(wire.url) as one:
        one.ask("POST", PATH, b"", "Content-Length: 100")
        one.send(b'{"model"')
        status, headers, _ = one.answer()
        assert status == 408 and headers["connection"] == "close"
    with Socket(wire.url) as one:  # and one whose client leaves
        one.ask("POST", PATH, b"", "Content-Length: 100")
    until(lambda: wire.service.metrics.open == 0)


@pytest.mark.parametrize("path", [PATH, "/v1/messages", "/v1/responses", "/v1/completions"])
def test_leaving_within_a_stream_frees_it(wire, path):
    wire.say([step for _ in range(1000) for step in (0.02, *wire.engine.tokenizer.encode(" a"))])
    body = {"prompt": "x", "input": "x", "max_tokens": 900, "stream": True} | BODY
    with Socket(wire.url) as one:
        one.ask("POST", path, body)
        while b"data: " not in one.read.readline():
            pass
    until(wire.engine.handles[-1].cancelled.is_set)
    until(lambda: wire.service.metrics.open == 0)


def test_a_client_that_never_reads_is_left(wire, monkeypatch):
    monkeypatch.setattr(wire.engine, "context", 1 << 20)
    wire.say(wire.engine.tokenizer.encode(" word") * 100_000)
    with Socket(wire.url) as one:
        one._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.ask("POST", PATH, BODY | {"stream": True, "max_tokens": 100_000})
        until(lambda: wire.engine.handles and wire.service.metrics.open == 1)
        until(lambda: wire.service.metrics.open == 0, 20)


@pytest.mark.parametrize("letters", ["a", " ", "\\ud83d\\ude42"])
def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(server, monkeypatch, letters):
    parts = server.engine.tokenizer.parts

    def short(text, **options):
        assert len(text) < 10_000
        return parts(text, **options)

    monkeypatch.setattr(server.engine.tokenizer, "parts", short)
    text = letters * ((8 << 20) // len(letters))
    message = f'[{{"role": "user", "content": "{text}"}}]'
    for path, body in (
        (PATH, f'{{"model": "{MODEL}", "messages": {message}}}'),
        ("/v1/messages", f'{{"model": "{MODEL}", "messages": {message}, "max_tokens": 5}}'),
        ("/v1/responses", f'{{"model": "{MODEL}", "input": "{text}"}}'),
        ("/v1/completions", f'{{"model": "{MODEL}", "prompt": "{text}"}}'),
        ("/v1/completions", f'{{"model": "{MODEL}", "prompt": "x", "suffix": "{text}"}}'),
    ):
        response = server.http.post(path, content=body.encode())
        assert response.status_code == 400, response.text[:300]
        assert "maximum context length is 4096 tokens" in response.text


def test_others_are_answered_while_a_large_text_is_encoded(server):
    server.say(f"</think>x{EOS}")
    text, found = "word and " * (1 << 17), []

    def post():
        with httpx.Client(base_url=server.url, timeout=120) as http:
            found.append(http.post("/tokenize", json={"prompt": text}).json()["count"])

    threads = [threading.Thread(target=post) for _ in range(3)]  # more than have a thread there
    for thread in threads:
        thread.start()
    answered = 0
    while any(thread.is_alive() for thread in threads):
        assert server.http.get("/health").is_success
        assert server.http.post(PATH, json=BODY).is_success
        answered += 1
    assert answered > 5 and found == [1 + len(server.engine.tokenizer.encode(text))] * 3
