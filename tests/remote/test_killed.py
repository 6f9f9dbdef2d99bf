"""Two real servers behind a front, of which one is killed while replies run."""

import json
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from cli.command import command, environment
from remote.test_engine import until
from server.running import MODEL, serving
from server.test_chat import TOOLS

from dsv4.remote.engine import RemoteEngine

WORDS = ("serve", "--port", "0", "--memory", "128MiB", "--slots", "8", "--name", MODEL)


@pytest.fixture(scope="module")
def servers():
    """Two of the packaged model: (process, url)."""
    options = {"stdout": subprocess.PIPE, "text": True, "env": environment()}
    started = [subprocess.Popen(command(*WORDS), **options) for _ in range(2)]
    try:
        said = [process.stdout.readline() for process in started]
        yield [(p, re.search(r"http://\S+", s)[0]) for p, s in zip(started, said, strict=True)]
    finally:
        for process in started:
            process.kill()
            process.wait(20)


@pytest.fixture(scope="module")
def front(servers, tokenizer):
    engine = RemoteEngine([url for _, url in servers], tokenizer, period=0.2)
    engine.wait(30)
    with serving(engine, tokenizer) as running:
        yield running


def said_by(number, **more):
    content = f"Tell story number {number} about a dog and a boat."
    return {"model": MODEL, "messages": [{"role": "user", "content": content}]} | more


OFF = {"thinking": {"type": "disabled"}, "max_tokens": 400}
ASKED = [
    *[("/v1/chat/completions", said_by(n, seed=n, **OFF)) for n in range(4)],
    ("/v1/chat/completions", said_by(4, seed=4, frequency_penalty=0.7, **OFF)),
    ("/v1/chat/completions", said_by(5, seed=5, tools=TOOLS, **OFF)),
    ("/v1/chat/completions", said_by(6, seed=6, max_tokens=400)),
    ("/v1/completions", {"model": MODEL, "prompt": "Once", "seed": 7, "max_tokens": 400}),
    ("/v1/completions", {"model": MODEL, "prompt": "A", "seed": 8, "max_tokens": 400, "n": 2}),
    ("/v1/messages", said_by(9, temperature=0, **OFF)),
    (
        "/v1/responses",
        {"model": MODEL, "input": "Say all.", "temperature": 0, "max_output_tokens": 400}
        | {"reasoning": {"effort": "none"}},
    ),
]


def deltas(lines):
    """What a stream of any of the APIs said: (kind, text) …, joined."""
    out = {}
    for line in lines:
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        assert "error" not in event, event
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or choice
            for kind in ("reasoning_content", "content", "text"):
                key = (choice["index"], kind)
                out[key] = out.get(key, "") + (delta.get(kind) or "")
        delta = event.get("delta")
        if isinstance(delta, dict):
            delta = delta.get("text") or delta.get("thinking")
        if isinstance(delta, str):
            out[event["type"]] = out.get(event["type"], "") + delta
    return {key: text for key, text in out.items() if text}


def stream(url, path, body, began=lambda: None):
    """What a stream says; `began` is called at its 12th line, or at the end of a shorter one."""
    with httpx.stream("POST", url + path, json=body | {"stream": True}, timeout=60) as response:
        assert response.status_code == 200
        lines = []
        for line in response.iter_lines():
            lines.append(line)
            if len(lines) == 12:
                began()
    if len(lines) < 12:
        began()
    return deltas(lines)


def test_requests_through_the_front_are_those_of_the_servers(front, servers):
    """A prompt's scores, choices and seeds, calls: to the bit."""
    body = {"model": MODEL, "prompt": [0, 5, 6, 7], "max_tokens": 3, "seed": 3, "n": 2}
    asked = [
        ("/v1/completions", body | {"echo": True, "logprobs": 2}),
        ("/v1/completions", body | {"return_token_ids": True}),
        ("/v1/completions", {"model": MODEL, "prompt": "a", "suffix": "b", "seed": 1}),
        ("/v1/chat/completions", said_by(1, seed=2, n=2, logprobs=True, top_logprobs=2, **OFF)),
        ("/v1/chat/completions", said_by(1, seed=2, tools=TOOLS, tool_choice="required", **OFF)),
    ]
    for path, one in asked:
        found, expected = (
            httpx.post(url + path, json=one, timeout=60).json()
            for url in (front.url, servers[1][1])
        )
        for reply in (found, expected):
            for choice in reply["choices"]:
                for call in choice.get("message", {}).get("tool_calls") or ():
                    assert call.pop("id").startswith("call_")
        assert found["choices"] == expected["choices"]
        assert found["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]


def test_a_conversation_stays_where_its_beginning_is(front):
    """Each turn is read by the server that read those before: a few tokens, not the whole."""
    for number in range(3):
        talk = [{"role": "user", "content": f"Talk {number}: " + "the dog saw the boat. " * 40}]
        for _ in range(3):
            body = {"model": MODEL, "messages": talk, "temperature": 0} | OFF | {"max_tokens": 8}
            reply = front.http.post("/v1/chat/completions", json=body).json()
            message = reply["choices"][0]["message"]
            talk += [{"role": message["role"], "content": message["content"]}]
            talk += [{"role": "user", "content": "Go on."}]
        usage = reply["usage"]
        assert usage["prompt_tokens"] - usage["prompt_cache_hit_tokens"] < 32, usage


def test_one_is_killed(front, servers):
    """What ran there goes on at the other, to the same end; later requests do not notice."""
    (killed, dead), (_, alive) = servers
    begun, dying = threading.Semaphore(0), threading.Event()

    def kill():
        for _ in ASKED:
            assert begun.acquire(timeout=60)
        running = {state.url: state.running for state in front.engine.backends()}
        killed.kill()
        dying.set()
        return running[dead]

    with ThreadPoolExecutor(len(ASKED) + 1) as pool:
        killing = pool.submit(kill)
        streams = [pool.submit(stream, front.url, *one, begun.release) for one in ASKED]
        assert dying.wait(60) and killing.result() > 0  # else nothing was lost
        later = [
            front.http.post(path, json=body | {"max_tokens": 3, "max_output_tokens": None})
            for path, body in ASKED
        ]
        found = [one.result() for one in streams]
    assert all(reply.status_code == 200 for reply in later)
    assert found == [stream(alive, *one) for one in ASKED]
    assert front.engine.statistics()["resumed"] > 0
    until(lambda: not front.engine.backends()[0].live)
    health = front.http.get("/health")
    assert health.status_code == 200
    assert [one["live"] for one in health.json()["backends"]] == [False, True]
    metrics = front.http.get("/metrics").text
    assert f'dsv4_backend_live{{backend="{dead}"}} 0' in metrics
    assert f'dsv4_backend_live{{backend="{alive}"}} 1' in metrics


def test_both_are_killed(front, servers):
    """Each API says so in its own shape."""
    slow = said_by(1, stream=True, seed=1, **(OFF | {"max_tokens": 3000}))
    with front.http.stream("POST", "/v1/chat/completions", json=slow) as response:
        lines = response.iter_lines()
        next(lines)
        servers[1][0].kill()
        rest = [line for line in lines if line.startswith("data: ")]
    error = json.loads(rest[-1][6:])["error"]
    assert error["type"] == "service_unavailable" and "was lost in the middle" in error["message"]
    until(lambda: not any(state.live for state in front.engine.backends()))
    for path, body in ASKED:
        for more in ({}, {"stream": True}):
            reply = front.http.post(path, json=body | more)
            assert reply.status_code == 503 and reply.headers["retry-after"]
            error = reply.json()["error"]
            assert "2 of 2 are out" in error["message"]
            if path == "/v1/messages":
                assert reply.json()["type"] == "error" and error["type"] == "overloaded_error"
            else:
                assert error["type"] == "service_unavailable"
    assert front.http.get("/health").status_code == 503
