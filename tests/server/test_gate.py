"""Who may ask, what else is answered, and in which shape things are refused."""

import anthropic
import httpx
import openai
import pytest
from server.engines import Scripted
from server.running import MODEL, serving
from server.test_chat import EOS

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}


def test_hosts(server):
    port = server.url.rsplit(":", 1)[1]
    for host in (f"127.0.0.1:{port}", "localhost", f"localhost:{port}", "a.localhost", "[::1]:80"):
        assert server.http.get("/health", headers={"Host": host}).status_code == 200
    for host in ("evil.example", f"evil.example:{port}", "192.168.0.1", "", "localhost.evil.com"):
        response = server.http.get("/health", headers={"Host": host})
        assert response.status_code == 403 and "--allow-host" in response.json()["error"]["message"]


def test_origins(server):
    server.say(f"</think>x{EOS}")
    for origin in (server.url, None):
        headers = {"Origin": origin} if origin else {}
        assert server.http.post("/v1/chat/completions", json=BODY, headers=headers).is_success
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://[", ""):
        for path in ("/v1/chat/completions", "/v1/messages", "/tokenize"):
            response = server.http.post(path, json=BODY, headers={"Origin": origin})
            assert response.status_code == 403, origin
    response = server.http.get("/v1/models", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers
    response = server.http.options("/v1/models", headers={"Origin": "https://evil.example"})
    assert response.status_code == 204 and "access-control-allow-origin" not in response.headers


def test_what_was_allowed_and_a_key(tokenizer):
    site = "https://app.example"
    with serving(
        Scripted(tokenizer), tokenizer, api_key="sécret", origins=[site], hosts=["my.example"]
    ) as one:
        one.say(f"</think>x{EOS}")
        asks = {"Origin": site, "Access-Control-Request-Method": "POST", "Host": "my.example"}
        asks["Access-Control-Request-Headers"] = "authorization"
        response = one.http.options("/v1/chat/completions", headers=asks)
        assert response.headers["access-control-allow-origin"] == site
        assert response.headers["access-control-allow-headers"] == "authorization"
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic abc"},
            {"x-api-key": "secret"},
        ):
            response = one.http.post("/v1/chat/completions", json=BODY, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
            response = one.http.post("/v1/messages", json=BODY, headers=headers)
            assert response.json()["type"] == "error"
            assert one.http.get("/metrics", headers=headers).status_code == 401
        key = "sécret".encode()
        for headers in ({"Authorization": b"Bearer " + key}, {"x-api-key": key}):
            headers["Origin"] = site
            response = one.http.post("/v1/chat/completions", json=BODY, headers=headers)
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == site
        assert one.http.get("/health").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{one.url}/v1", api_key="x", max_retries=0).models.list()


def test_models(server):
    (model,) = server.openai.models.list().data
    assert model.id == MODEL and "/" in MODEL
    assert server.openai.models.retrieve(MODEL).id == MODEL
    assert server.anthropic.models.list().data[0].id == MODEL
    with pytest.raises(openai.NotFoundError):
        server.openai.models.retrieve("other/one")
    assert server.http.get("/models").json()["data"][0]["id"] == MODEL
    messages = anthropic.Anthropic(base_url=f"{server.url}/anthropic", api_key="x", max_retries=0)
    assert messages.models.retrieve(MODEL).id == messages.models.list().data[0].id == MODEL
    with pytest.raises(anthropic.NotFoundError) as refused:
        messages.models.retrieve("other/one")
    assert refused.value.body["type"] == "error"


def test_any_model_where_it_was_asked_for(tokenizer):
    with serving(Scripted(tokenizer), tokenizer, any_model=True) as one:
        one.say(f"</think>x{EOS}")
        reply = one.openai.chat.completions.create(model="gpt-9", messages=BODY["messages"])
        assert reply.model == "gpt-9"


def test_tokens(server):
    one = server.engine.tokenizer
    ids = one.encode("hello world")
    post = server.http.post
    reply = post("/tokenize", json={"model": MODEL, "prompt": "hello world"}).json()
    assert reply["tokens"] == [0, *ids] and reply["count"] == len(ids) + 1
    reply = post("/tokenize", json={"prompt": "hello world", "add_special_tokens": False}).json()
    assert reply["tokens"] == ids
    assert post("/tokenize", json={"content": "hello world"}).json()["tokens"] == ids
    reply = post("/tokenize", json={"messages": BODY["messages"], "return_token_strs": True}).json()
    assert reply["token_strs"][0] == "<｜begin▁of▁sentence｜>"
    assert post("/detokenize", json={"tokens": ids}).json()["prompt"] == "hello world"
    assert server.http.get("/tokenizer_info").json()["eos_token"] == EOS
    for body in ({}, {"tokens": [-1]}, {"tokens": "x"}, {"tokens": [10**9]}):
        assert post("/detokenize", json=body).status_code == 400
    assert post("/tokenize", json={}).status_code == 400


def test_head_options_and_paths_that_are_none(server):
    for path in ("/health", "/v1/models", f"/v1/models/{MODEL}", "/metrics", "/tokenizer_info"):
        response = server.http.head(path)
        assert response.status_code == 200 and not response.content
    response = server.http.get("/nowhere")
    assert response.status_code == 404 and response.json()["error"]["code"] == "not_found"
    response = server.http.get("/v1/chat/completions")
    assert response.status_code == 405 and response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models", "GET, HEAD, OPTIONS"),
        (f"/v1/models/{MODEL}", "GET, HEAD, OPTIONS"),
        ("/v1/messages", "OPTIONS, POST"),
        ("/responses/resp_1", "DELETE, GET, HEAD, OPTIONS"),
        ("/metrics", "GET, HEAD, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS"),
        ("/render", "OPTIONS, POST"),
    ],
)
def test_what_a_path_allows(server, path, allowed):
    """Told alike by OPTIONS and to who asks for something else, and true."""
    for method, status in (("OPTIONS", 204), ("PUT", 405)):
        response = server.http.request(method, path)
        assert (response.status_code, response.headers["allow"]) == (status, allowed)
    for method in ("GET", "HEAD", "POST", "DELETE"):
        refused = server.http.request(method, path).status_code == 405
        assert refused is (method not in allowed)
    assert server.http.options("/nowhere").status_code == 404


def test_a_full_engine(tokenizer):
    engine = Scripted(tokenizer)
    engine.most = 0
    with serving(engine, tokenizer) as one:
        one.say(EOS)
        for body in (BODY, BODY | {"stream": True}):
            response = one.http.post("/v1/chat/completions", json=body)
            assert response.status_code == 429 and response.headers["retry-after"] == "3"
        response = one.http.post("/v1/messages", json=BODY | {"max_tokens": 5})
        assert response.json()["error"]["type"] == "rate_limit_error"
        engine.most = 1
        one.say([0.3, 1])
        response = one.http.post("/v1/chat/completions", json=BODY | {"n": 3})
        assert response.status_code == 429
        assert all(handle.cancelled.is_set() for handle in engine.handles)


def test_the_document_names_every_path(server):
    document = server.http.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"} <= set(
        document["paths"]
    )
    ids = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(set(ids)) == len(ids)


def test_expect_100_continue(server):
    import socket

    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        head = f"POST /tokenize HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 15\r\n"
        sock.sendall((head + "Expect: 100-continue\r\n\r\n").encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 100")
        sock.sendall(b'{"prompt": "x"}')
        assert b"200 OK" in sock.recv(1000)


def test_a_connection_serves_after_a_stream(server):
    server.say(f"</think>x{EOS}")
    with httpx.Client(base_url=server.url, limits=httpx.Limits(max_connections=1)) as http:
        for _ in range(3):
            response = http.post("/v1/chat/completions", json=BODY | {"stream": True})
            assert response.text.endswith("data: [DONE]\n\n")
            assert "no-cache" in response.headers["cache-control"]
            assert http.post("/v1/chat/completions", json={"a": 1}).status_code == 400
