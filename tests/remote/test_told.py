"""What clients of a front are told of a reply that failed at a server: what that tells itself."""

import json

import httpx
import pytest
from server.engines import Scripted
from server.running import MODEL, serving

from dsv4.engine.request import GrammarError
from dsv4.remote.engine import RemoteEngine

SAID = [{"role": "user", "content": "Hello"}]
APIS = [
    ("/v1/chat/completions", {"messages": SAID, "thinking": {"type": "disabled"}}),
    ("/v1/completions", {"prompt": "Hello"}),
    ("/v1/messages", {"messages": SAID, "max_tokens": 9}),
    ("/v1/responses", {"input": "Hello", "reasoning": {"effort": "none"}}),
]


@pytest.fixture(scope="module")
def both(tokenizer):
    """A server whose replies fail in the middle, and a front before it and another."""
    with (
        serving(Scripted(tokenizer), tokenizer) as own,
        serving(Scripted(tokenizer), tokenizer) as b,
    ):
        own.say([5, 6, 1])
        b.say([7, 8, 1])
        engine = RemoteEngine([own.url, b.url], tokenizer, context=4096)
        engine.wait(20)
        for one in (own, b):
            one.say([5, 6, 0.3, GrammarError("its grammar let it say nothing more")])
        with serving(engine, tokenizer) as front:
            yield own, front


def errors(url, path, body):
    """The error of a stream, without what differs from reply to reply."""
    with httpx.stream("POST", url + path, json=body, timeout=30) as response:
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line]
    *_, kind, last = ["", *lines]
    event = json.loads(last.removeprefix("data: "))
    found = event.get("error") or event["response"]["error"]
    return kind if kind.startswith("event: ") else "", found


@pytest.mark.parametrize(("path", "more"), APIS)
def test_a_grammar_that_fails_in_the_middle(both, path, more):
    own, front = both
    body = {"model": MODEL, "stream": True} | more
    told = errors(own.url, path, body)
    assert "let it say nothing more" in told[1]["message"]
    assert errors(front.url, path, body) == told
    assert front.engine.statistics()["resumed"] == 0
    assert all(one.live and not one.failures for one in front.engine.backends())
    answers = [httpx.post(one.url + path, json=body | {"stream": False}) for one in both]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == answers[1].json()
