"""`dsv4 chat --url`: the same dialogue, with the model at a server."""

import json
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from server.engines import Scripted
from server.running import MODEL, serving
from typer.testing import CliRunner

from dsv4.checkpoint.load import packaged
from dsv4.cli import app
from dsv4.tokenizer import Tokenizer

from .command import command, environment
from .test_chat import PROMPT, Typist

EOS = "<｜end▁of▁sentence｜>"


def run(*words, given="", code=0):
    found = CliRunner().invoke(app, ["chat", *map(str, words)], input=given)
    assert found.exit_code == code, found.output
    return found


@pytest.fixture(scope="module")
def server():
    tokenizer = Tokenizer.load(packaged())
    with serving(Scripted(tokenizer), tokenizer, api_key="k") as running:
        yield running


@pytest.fixture
def ours(server, monkeypatch):
    monkeypatch.setenv("DSV4_API_KEY", "k")
    server.engine.jobs.clear()
    return server


# ---- a dsv4 server ----------------------------------------------------------------------------


def test_a_dialogue_with_reasoning(ours):
    ours.say(f"hm é</think>one{EOS}", f"two{EOS}", f"so</think>three{EOS}")
    given = "a\n/effort\n/effort none\nb\n/effort max\n/reset\nc\n"
    words = ("--url", f"{ours.url}/v1/", "--system", "Be brief.", "--seed", 5, "--stop", "X")
    found = run(*words, given=given)
    assert found.stdout == ("<think>\nhm é\n</think>\n\none\ntwo\n<think>\nso\n</think>\n\nthree\n")
    told = ["effort is the server's own", "effort is none", "effort is max", "is forgotten"]
    assert [line for line in found.stderr.splitlines() if all(w not in line for w in told)] == []
    tokenizer = ours.engine.tokenizer
    prompts = [tokenizer.decode(job.ids) for job in ours.engine.jobs]
    assert "<｜User｜>a<｜Assistant｜></think>one" + EOS + "<｜User｜>b" in prompts[1]
    assert prompts[2].endswith("Be brief.<｜User｜>c<｜Assistant｜><think>")
    assert all(job.sampling.seed == 5 for job in ours.engine.jobs)


def test_limits_are_said(ours):
    ours.say("</think>" + "a b c d e f")
    found = run("--url", ours.url, "--max-tokens", 3, given="x\n")
    assert "(cut after 3 tokens: --max-tokens allows more)" in found.stderr


def test_what_the_server_refuses_is_one_line(ours):
    ours.say(EOS)
    found = run("other", "--url", ours.url, given="x\ny\n", code=2)
    assert found.stderr.count("\n") == 1 and "but you passed other" in found.stderr
    found = run("--url", ours.url, "--api-key", "wrong", given="x\n", code=2)
    assert "answers 401" in found.stderr and "DSV4_API_KEY" in found.stderr
    assert run(MODEL, "--url", ours.url, given="x\n").stderr == ""


def test_a_failure_in_the_reply_ends_a_pipe(ours):
    ours.say([*ours.engine.tokenizer.encode("</think>one", special=True), RuntimeError("boom")])
    found = run("--url", ours.url, given="x\ny\n", code=2)
    assert found.stdout in ("one\n", "") and "boom" in found.stderr  # it may fail before it is read
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", "nope"], "--url nope: must be a URL"),
        (["--url", "http://127.0.0.1:1"], "http://127.0.0.1:1 cannot be reached"),
        (["--url", "http://a", "--dtype", "float32", "--copy"], "leave out --dtype and --copy"),
        (["--url", "http://a", "--effort", "huge"], "effort = 'huge'"),
        (["--url", "http://a", "--api-key", "é"], "the API key holds a character"),
        (["--api-key", "k"], "--api-key goes with --url"),
    ],
)
def test_wrong_words(words, message):
    found = run(*words, given="x\n", code=2)
    assert message in found.stderr and found.stderr.count("\n") == 1


def word_by_word(server):
    word = server.engine.tokenizer.encode(" word")
    end = server.engine.tokenizer.encode("</think>", special=True)
    server.engine.handles.clear()
    server.say([*end, *(step for _ in range(2000) for step in (0.02, *word))])


def test_ctrl_c_stops_the_reply_and_keeps_the_chat(ours, tmp_path):
    word_by_word(ours)
    user = Typist("chat", "--url", ours.url, "--max-tokens", 3000, home=tmp_path)
    user.see(PROMPT)
    user.type("Hello\r")
    user.see(" word word")
    user.type("\x03")
    user.see(PROMPT)
    assert ours.engine.handles[-1].cancelled.wait(10)  # it computes no more
    ours.say([30.0])  # a server that is silent
    user.type("more\r")
    end = time.monotonic() + 20
    while len(ours.engine.jobs) < 2:
        assert time.monotonic() < end
        user.look(0.05)
    user.type("\x03")
    assert ours.engine.handles[-1].cancelled.wait(10)
    text = ours.engine.tokenizer.decode(ours.engine.jobs[-1].ids)
    assert "</think> word word" in text and "<｜User｜>more" in text  # what was said is kept
    user.type("\x04")
    assert user.leave() == 0


def test_ctrl_c_in_a_pipe(ours):
    word_by_word(ours)
    process = subprocess.Popen(
        command("chat", "--url", ours.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdin.write(b"Hello\n")
    process.stdin.flush()
    assert process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=30)
    assert process.returncode == 130 and out.endswith(b"\n") and told == b"dsv4: interrupted\n"


# ---- other servers -----------------------------------------------------------------------------


class Plain(BaseHTTPRequestHandler):
    """Each test chooses what it answers."""

    def log_message(self, *_):
        pass

    def say(self, status, kind, data):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        status, body = self.server.models
        self.say(status, "application/json", json.dumps(body).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.say(*self.server.answer(body))


@contextmanager
def plain(answer, models=(200, {"data": [{"id": "gpt"}]})):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Plain)
    server.answer, server.models, server.asked = answer, models, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def events(*chunks, last="data: [DONE]\n\n"):
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n" for chunk in chunks]
    return 200, "text/event-stream", (": hi\n\n" + "".join(lines) + last).encode()


def delta(finish=None, **said):
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_stream_of_another_server(name):
    chunks = (
        delta(role="assistant", content=""),
        delta(**{name: "hm\u2028"}),
        delta(content="é\x85x"),
        delta("stop", content=None),
        {"choices": [], "usage": {"completion_tokens": 3}},
    )
    with plain(lambda body: events(*chunks)) as server:
        found = run("--url", server.url, given="a\nb\n")
    assert found.stdout == "<think>\nhm\u2028\n</think>\n\né\x85x\n" * 2
    assert server.asked[0] == {
        "model": "gpt",
        "messages": [{"role": "user", "content": "a"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 512,
    }
    kept = {"role": "assistant", "content": "é\x85x", "reasoning_content": "hm\u2028"}
    assert server.asked[1]["messages"][1] == kept


def test_a_server_that_does_not_stream():
    message = {"role": "assistant", "content": "whole"}
    body = {"choices": [{"message": message, "finish_reason": "length"}]}
    with plain(lambda _: (200, "application/json", json.dumps(body).encode())) as server:
        found = run("--url", server.url, given="a\n")
    assert found.stdout == "whole\n" and "(cut after 512 tokens" in found.stderr


def test_a_server_that_knows_no_effort():
    def answer(body):
        for name in ("stream_options", "reasoning_effort"):
            if name in body:
                error = {"error": {"message": f"Unrecognized argument: {name}"}}
                return 400, "application/json", json.dumps(error).encode()
        return events(delta("stop", content="ok"))

    with plain(answer) as server:
        assert run("--url", server.url, "--effort", "none", given="a\nb\n").stdout == "ok\nok\n"
        assert len(server.asked) == 4  # it is asked for both once
        found = run("--url", server.url, "--effort", "high", given="a\n", code=2)
        assert "Unrecognized argument: reasoning_effort" in found.stderr


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, "text/html", b"<h1>Bad\ngateway</h1>"), "answers 500: <h1>Bad gateway</h1>"),
        (events(delta(content="x"), last=""), "broke off in the middle of the reply"),
        (events({"error": {"message": "too\nmuch"}}), "too much"),
        (events([1]), "answers what is no completion"),
        ((200, "text/event-stream", b"data: {\n\n"), "answers what is no completion"),
        ((200, "text/event-stream", b""), "broke off"),
    ],
)
def test_answers_that_are_none(answer, message):
    with plain(lambda _: answer) as server:
        found = run("--url", server.url, given="a\n", code=2)
    assert message in found.stderr and found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("models", "name", "code"),
    [
        ((404, {}), "gpt", 0),
        ((404, {}), None, 2),
        ((200, {"data": []}), None, 2),
        ((200, [1]), None, 2),
        ((200, {"data": [{"id": 3}]}), None, 2),
        ((503, {"error": "down"}), "gpt", 2),
    ],
)
def test_models_of_a_server(models, name, code):
    words = [name] if name else []
    with plain(lambda _: events(delta("stop", content="ok")), models) as server:
        found = run(*words, "--url", server.url, given="a\n", code=code)
    assert found.stderr.count("\n") == (code == 2)
