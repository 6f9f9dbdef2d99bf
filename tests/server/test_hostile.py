"""Bodies that nobody should send: always 4xx, never 500, and never a job."""

import json

import pytest
from server.running import MODEL

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
USER = '[{"role": "user", "content": "x"}]'


def deep(opening, closing, depth=100_000):
    return (opening * depth + closing * depth).encode()


BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "a lone surrogate": b'{"model": "\\ud800", "messages": []}',
    "a lone surrogate as a name": b'{"\\udc00": 1}',
    "infinite": b'{"temperature": 1e999}',
    "NaN": b'{"temperature": NaN}',
    "-Infinity": b'{"x": -Infinity}',
    "a huge integer": b'{"seed": ' + b"9" * 5000 + b"}",
    "deep lists": b'{"messages": ' + deep("[", "]") + b"}",
    "deep objects": deep('{"a":', "}").replace(b":}", b":1}", 1),
    "a trailing comma": b'{"model": "x",}',
    "two values": b"{} {}",
    "a NUL": b'{"model": "\x00"}',
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_request(server, name):
    for path in PATHS:
        response = server.http.post(path, content=BODIES[name])
        assert 400 <= response.status_code < 500, (path, response.text)
        assert response.json()["error"]["message"]
    assert not server.engine.jobs


def chat(**more):
    return {"model": MODEL, "messages": [{"role": "user", "content": "x"}]} | more


def tool(parameters):
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def nested(depth, key="anyOf"):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {key: [schema]}
    return {"type": "object", "properties": {"a": schema}}


REQUESTS = {
    "no messages": chat(messages=[]),
    "messages of numbers": chat(messages=[1]),
    "a role that is none": chat(messages=[{"role": "root", "content": "x"}]),
    "a model that is a list": chat(model=[MODEL]),
    "a schema outside": chat(tools=[tool({"type": "object", "$ref": "http://x/y"})]),
    "a schema that is text": chat(tools=[tool("x")]),
    "a schema too deep": chat(tools=[tool(nested(400))]),
    "a broken expression": chat(
        tools=[tool({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}})]
    ),
    "a negative n": chat(n=-1),
    "n as text": chat(n="2"),
    "true as a number": chat(temperature=True),
    "a bias beyond the ids": chat(logit_bias={"99999999": 1}),
    "a stop id beyond the ids": chat(stop_token_ids=[10**12]),
    "too many stops": chat(stop=["a"] * 17),
    "options without a stream": chat(stream_options={"include_usage": True}),
    "too many messages": chat(messages=[{"role": "user", "content": ""}] * 10_001),
    "a choice of no tool": chat(
        tools=[tool({"type": "object"})],
        tool_choice={"type": "function", "function": {"name": "g"}},
    ),
    "a prompt beyond the context": chat(messages=[{"role": "user", "content": "x y " * 9_000}]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_are_refused(server, name):
    for stream in (False, True)[: 1 if "stream_options" in REQUESTS[name] else 2]:
        body = REQUESTS[name] | {"stream": stream}
        response = server.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 400, response.text[:300]
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert not server.engine.jobs


def test_sizes(server):
    server.say([1])
    response = server.http.post("/v1/chat/completions", json=chat(padding="x" * 10_000_000))
    assert response.status_code == 200
    text = chat(messages=[{"role": "user", "content": "word " * 100_000}])
    response = server.http.post("/v1/chat/completions", json=text)
    assert response.status_code == 400 and "maximum context length" in response.text
    most = server.service.settings.max_body
    for content in (b" " * (most + 1), iter([b" " * (1 << 20)] * 33)):  # told, and in chunks
        response = server.http.post("/v1/chat/completions", content=content)
        assert response.status_code == 413 and response.headers["connection"] == "close"
    assert server.http.get("/health").is_success


def test_texts_of_any_kind_come_through(server):
    """What is strange but sound is no error: NUL, controls, pairs, private use, bidi marks."""
    server.say([*server.engine.tokenizer.encode("\x00é🙂\u202e"), 1])
    for text in (
        "\x00",
        "\x1b[2J",
        "\U0001f642",
        "\ue000\uffff",
        "\u202e",
        "<｜User｜>",
        "data: x\n\n",
    ):
        body = chat(messages=[{"role": "user", "content": text}], thinking={"type": "disabled"})
        for more in ({}, {"stream": True}):
            response = server.http.post("/v1/chat/completions", content=json.dumps(body | more))
            assert response.status_code == 200
        job = server.engine.jobs[-1]
        assert server.engine.tokenizer.token_id("<｜User｜>") == job.ids[1]
        assert list(job.ids).count(job.ids[1]) == 1  # what a user spells is no role
    reply = server.http.post("/v1/chat/completions", content=json.dumps(body)).json()
    assert reply["choices"][0]["message"]["content"] == "\x00é🙂\u202e"


def test_counting_ends(server, monkeypatch):
    """A text is encoded up to twice what fits, though nothing is generated."""
    monkeypatch.setattr("dsv4.server.tokens.LONG", 0)
    text = "a b " * 5000
    asked = [
        ("/tokenize", {"prompt": text}),
        ("/tokenize", {"messages": [{"role": "user", "content": text}]}),
        (
            "/v1/messages/count_tokens",
            {"model": MODEL, "messages": [{"role": "user", "content": text}]},
        ),
    ]
    for path, body in asked:
        answer = server.http.post(path, json=body)
        assert answer.status_code == 400, answer.text[:200]
        assert "maximum context length is 4096 tokens" in answer.json()["error"]["message"]
    monkeypatch.undo()
    assert server.http.post("/tokenize", json={"prompt": text}).json()["count"] > 8192
