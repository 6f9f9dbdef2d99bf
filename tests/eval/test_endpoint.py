"""Servers that refuse, fail, fall silent, or answer what is no answer."""

import json
import time

import httpx
import pytest

from dsv4.eval import endpoint
from dsv4.eval.endpoint import TRIES, UrlSubject
from dsv4.eval.subject import Ask, SubjectError, TooLongError

ASK = Ask([{"role": "user", "content": "Hi"}], max_tokens=8)
SAID = {
    "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
MODELS = {"data": [{"id": "m", "max_model_len": 4096}, {"id": "n"}]}


class Server:
    """Answers one after the other; what is raised is what the network does."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, client, method, url, json=None, **_):
        path = url.removeprefix("http://127.0.0.1:9")
        if path == "/v1/models":
            return httpx.Response(200, json=MODELS)
        self.asked.append((path, json))
        status, body, *more = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(status, Exception):
            raise status
        return httpx.Response(status, content=body, headers=more[0] if more else None)


@pytest.fixture
def serve(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def start(*answers, model=None):
        server = Server(*answers)
        monkeypatch.setattr(httpx.Client, "request", lambda *a, **k: server(*a, **k))
        return UrlSubject("http://127.0.0.1:9", model=model), server, waits

    return start


def body(value):
    return json.dumps(value).encode()


GOOD = (200, body(SAID))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(serve, status):
    subject, server, waits = serve((status, b"{}"), (status, b""), GOOD)
    assert subject.generate(ASK).text == "Hello"
    assert len(server.asked) == 3 and len({json.dumps(b) for _, b in server.asked}) == 1
    assert waits == [2.0, 4.0]


def test_it_says_how_long_and_is_not_waited_for_forever(serve):
    subject, _, waits = serve(
        (429, b"", {"retry-after": "7"}), (429, b"", {"retry-after": "99999"}), GOOD
    )
    assert subject.generate(ASK).text == "Hello" and waits == [7.0, endpoint.PATIENCE]


def test_in_the_end_it_is_given_up(serve):
    subject, server, _ = serve((500, body({"error": {"message": "out of memory"}})))
    with pytest.raises(SubjectError, match="500: out of memory"):
        subject.generate(ASK)
    assert len(server.asked) == TRIES


def test_a_server_that_begins_anew(serve):
    lost = (httpx.ConnectError("refused"), b"")
    subject, server, _ = serve(lost, (httpx.ReadError("reset"), b""), GOOD)
    assert subject.generate(ASK).text == "Hello" and len(server.asked) == 3


def test_a_server_that_says_nothing_is_not_asked_again(serve):
    subject, server, _ = serve((httpx.ReadTimeout("silent"), b""))
    with pytest.raises(SubjectError, match="does not answer"):
        subject.generate(ASK)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (401, {"error": {"message": "no key"}}, "401: no key"),
        (404, {"error": {"message": "model m does not exist"}}, "404: model m does not exist"),
        (200, {}, "no completion"),
        (200, {"choices": []}, "no completion"),
        (200, {"error": {"message": "overloaded"}}, "overloaded"),
        (200, [], "it failed"),
        (200, {"choices": [{"message": {"tool_calls": [{"x": 1}]}}]}, "no call of a tool"),
    ],
)
def test_what_is_no_answer(serve, status, said, message):
    subject, server, _ = serve((status, body(said)))
    with pytest.raises(SubjectError, match=message):
        subject.generate(ASK)
    assert len(server.asked) == 1


def test_no_json(serve):
    subject, _, _ = serve((200, b"<html>"))
    with pytest.raises(SubjectError, match="no JSON"):
        subject.generate(ASK)


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 4096 tokens",
        "the request exceeds the available context size",
        "context_length_exceeded",
        "prompt is too long: 5000 tokens",
    ],
)
def test_prompts_that_are_too_long(serve, said):
    subject, _, _ = serve((400, body({"error": {"message": said}})))
    with pytest.raises(TooLongError):
        subject.generate(ASK)


def test_models(serve):
    assert serve(GOOD)[0].name == "m" and serve(GOOD, model="n")[0].name == "n"
    assert serve(GOOD)[0].context == 4096
    with pytest.raises(SubjectError, match="no model x: --model must be of m, n"):
        serve(GOOD, model="x")


def test_arguments_that_are_no_text(serve):
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    said = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "x"}]}
    reply = serve((200, body(said)))[0].generate(ASK)
    assert reply.text == "" and reply.calls == [{"name": "f", "arguments": '{"a": 1}'}]
