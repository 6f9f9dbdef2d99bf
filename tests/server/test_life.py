"""Clients that leave, wait or do not read; engines that fail; servers that end."""

import json
import socket
import threading
import time

import httpx
import openai
import pytest
from server.engines import Scripted
from server.running import MODEL, serving
from server.test_chat import EOS

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
PATH = "/v1/chat/completions"


def until(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def slow(server):
    """It says a word every 20 ms, for 20 s."""
    word = server.engine.tokenizer.encode(" word")
    server.engine.handles.clear()
    server.say([step for _ in range(1000) for step in (0.02, *word)])
    return server


@pytest.mark.parametrize("path", [PATH, "/v1/responses", "/v1/completions"])
def test_leaving_a_stream_cancels_its_job(slow, path):
    body = {"model": MODEL, "input": "x", "prompt": "x", "stream": True, "max_tokens": 1000}
    with slow.http.stream("POST", path, json=body | BODY) as response:
        for _ in response.iter_bytes():
            break
    until(slow.engine.handles[-1].cancelled.is_set)
    until(lambda: slow.engine.statistics()["running"] == 0)


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.15])
def test_leaving_a_stream_before_it_begins_cancels_its_job(server, seconds):
    """Also while the answer to the request still waits for a first token (0.2 s here)."""
    server.engine.handles.clear()
    server.say([20.0])
    with pytest.raises(httpx.TimeoutException):
        httpx.post(server.url + PATH, json=BODY | {"stream": True}, timeout=seconds)
        pytest.fail("it was answered")
    until(server.engine.handles[-1].cancelled.is_set, 5)


def test_leaving_a_stream_is_seen_at_once_however_long_its_first_token_takes(tokenizer):
    with serving(Scripted(tokenizer), tokenizer, keep_alive=60.0) as server:
        server.say([6.0])
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + PATH, json=BODY | {"stream": True}, timeout=0.5)
        until(server.engine.handles[-1].cancelled.is_set, 3)


def test_leaving_before_a_whole_reply_cancels_its_jobs(slow):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(slow.url + PATH, json=BODY | {"n": 2}, timeout=0.3)
    until(lambda: all(handle.cancelled.is_set() for handle in slow.engine.handles))
    assert len(slow.engine.handles) == 2


def test_comments_while_nothing_comes(server):
    server.say([0.7, *server.engine.tokenizer.encode("</think>x"), 1])
    response = server.http.post(PATH, json=BODY | {"stream": True})
    assert 2 <= response.text.count(": keep-alive\n\n") <= 5
    assert response.text.endswith("data: [DONE]\n\n")


def test_a_client_that_never_reads(tokenizer):
    engine = Scripted(tokenizer)
    with serving(engine, tokenizer, patience=1.0) as one:
        ids = tokenizer.encode(" word")
        engine.context = 1 << 20
        one.say(ids * 100_000)
        host, port = one.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as sock:
            body = json.dumps(
                BODY | {"stream": True, "logprobs": True, "top_logprobs": 3, "max_tokens": 100_000}
            ).encode()
            head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(head.encode() + body)
            until(lambda: engine.handles and engine.statistics()["running"] == 0, 20)
        until(lambda: one.service.metrics.open == 0)
        assert one.service.metrics.tokens["generated"] < 100_000


def test_a_failure_before_the_first_token_is_a_status(server):
    server.say([RuntimeError("the weights melted")])
    for body in (BODY, BODY | {"stream": True}):
        response = server.http.post(PATH, json=body)
        assert response.status_code == 500 and "the weights melted" in response.text
    assert server.http.get("/health").is_success


def test_a_failure_in_a_stream_is_its_last_event(server):
    server.say([*server.engine.tokenizer.encode("a b"), 0.5, RuntimeError("boom")])
    with pytest.raises(openai.APIError, match="boom"):
        list(server.openai.chat.completions.create(stream=True, **BODY))
    response = server.http.post(PATH, json=BODY | {"stream": True})
    assert "[DONE]" not in response.text and response.status_code == 200


@pytest.mark.parametrize("grace", [5.0, 0.2])
def test_the_end_of_a_server(tokenizer, grace):
    """What runs is finished within the grace, and after it fails in words."""
    engine = Scripted(tokenizer)
    word = tokenizer.encode(" word")
    with serving(engine, tokenizer, grace=grace) as one:
        one.say([step for _ in range(40) for step in (0.02, *word)] + [1])
        found = []

        def ask(**more):
            body = BODY | {"thinking": {"type": "disabled"}} | more
            found.append(one.http.post(PATH, json=body))

        threads = [threading.Thread(target=ask, kwargs={"stream": s}) for s in (True, False)]
        for thread in threads:
            thread.start()
        until(lambda: len(engine.handles) == 2)
        time.sleep(0.1)
        one.server.should_exit = True
        for thread in threads:
            thread.join(20)
        texts = sorted((response.text for response in found), key=lambda t: t.startswith("data"))
        if grace > 1:
            assert texts[0].count(" word") == texts[1].count(" word") == 40
            assert texts[1].endswith("[DONE]\n\n")
        else:
            assert json.loads(texts[0])["error"]["type"] == "service_unavailable"
            assert "shutting down" in texts[1].split("data: ")[-1]


def test_a_closed_engine_is_said(tokenizer):
    engine = Scripted(tokenizer)
    with serving(engine, tokenizer) as one:
        one.say(EOS)
        engine.closed = True
        response = one.http.post(PATH, json=BODY)
        assert response.status_code == 503 and "retry-after" in response.headers
