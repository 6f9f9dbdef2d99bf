"""An engine and a URL say and score the same; scores are the model's own."""

import httpx
import pytest
import torch
from server.engines import Scripted
from server.running import serving

from dsv4.eval.endpoint import UrlSubject
from dsv4.eval.inprocess import EngineSubject
from dsv4.eval.subject import Ask, SubjectError, TooLongError, read, score, split, windows

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKS = [
    Ask([{"role": "user", "content": "What is 12 + 7?"}], max_tokens=24, seed=3),
    Ask([{"role": "user", "content": "Spell: lamp"}], effort="high", max_tokens=24, seed=4),
    Ask([{"role": "user", "content": "Copy: a b c"}], temperature=0.0, max_tokens=16, stop=["b"]),
    Ask([{"role": "user", "content": "Weather in Rome?"}], tools=[TOOL], max_tokens=48, seed=5),
    Ask("Once upon a time", max_tokens=20, seed=6),
    Ask("One, two, three,", max_tokens=12, temperature=0.0, stop=["\n", "."]),
]


@pytest.mark.parametrize("ask", ASKS)
def test_both_say_the_same(exact, inside, outside, ask):
    here, there = inside.generate(ask), outside.generate(ask)
    same = ("text", "reasoning", "calls", "finish_reason", "prompt_tokens", "completion_tokens")
    assert [getattr(here, n) for n in same] == [getattr(there, n) for n in same]
    assert inside.count(ask) == outside.count(ask) == here.prompt_tokens
    assert here.completion_tokens > 0


@pytest.mark.parametrize(
    ("context", "continuation"),
    [("The cat sat on the", " mat."), ("What is 2 + 2? ", "4"), ("", "Hello there")],
)
def test_scores_are_the_models_own(exact, inside, outside, running, context, continuation):
    here = score(inside, context, continuation)
    assert here == score(outside, context, continuation)
    first, rest = split(inside.encode, context, continuation)
    with torch.inference_mode():
        logits = running.engine.model(torch.tensor([[0, *first, *rest]]))[0].double()
    log = logits.log_softmax(-1)[len(first) : -1]
    own = log[torch.arange(len(rest)), torch.tensor(rest)]
    assert here.logprob == pytest.approx(own.sum().item(), abs=1e-4)
    assert here.greedy == bool((log.argmax(-1) == torch.tensor(rest)).all())
    assert here.tokens == len(rest) > 0


def test_a_text_that_is_longer_than_the_context(exact, inside, running, monkeypatch):
    """BOS stands before the first window alone, and each token is predicted once."""
    text = "The river runs along the old wall, and the mill stands there. " * 3
    ids = inside.encode(text)
    monkeypatch.setattr(type(running.engine), "context", 18)
    there = UrlSubject(running.url)
    assert there.context == inside.context == 18 < len(ids)
    here = score(inside, "", text)
    assert here == score(there, "", text) and here.tokens == len(ids)
    there.close()
    total = 0.0
    with torch.inference_mode():
        for before, rest in windows(ids, 16):
            window = [*(before or [0]), *rest]
            logits = running.engine.model(torch.tensor([window[:-1]]))[0].double()
            log = logits.log_softmax(-1)[-len(rest) :]
            total += log[torch.arange(len(rest)), torch.tensor(rest)].sum().item()
    assert here.logprob == pytest.approx(total, abs=1e-3)
    assert here.logprob != pytest.approx(score_whole(inside, running, ids), abs=1e-2)


def score_whole(inside, running, ids):
    with torch.inference_mode():
        log = running.engine.model(torch.tensor([[0, *ids[:-1]]]))[0].double().log_softmax(-1)
    return log[torch.arange(len(ids)), torch.tensor(ids)].sum().item()


def test_the_beginning_of_all_has_no_score(inside, outside):
    """A text that spells BOS begins with it: it is behind nothing."""
    here = score(inside, "", "<｜begin▁of▁sentence｜>Hello there")
    assert here == score(inside, "", "Hello there")
    assert here.tokens == score(outside, "", "<｜begin▁of▁sentence｜>Hello there").tokens > 0


def test_greedy_is_told(inside):
    text = "One, two, three,"
    said = inside.generate(Ask(text, max_tokens=6, temperature=0.0)).text
    assert score(inside, text, said).greedy
    assert not score(inside, text, said + " xylophone").greedy


def test_spaces_that_end_a_context_go_to_the_continuation():
    words = {}

    def encode(text):
        pieces = [" " + p for p in text.split(" ")]
        return [words.setdefault(p, len(words)) for p in pieces] if text else []

    assert split(encode, "a b ", "c") == split(encode, "a b", " c")


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_prompt_that_is_too_long(request, running, where, monkeypatch):
    subject = request.getfixturevalue(where)
    monkeypatch.setattr(type(running.engine), "context", 64)
    subject.generate(Ask("word " * 40, max_tokens=8))
    for words, most in ((62, 8), (64, 1), (1_000, 8)):
        with pytest.raises(TooLongError, match="context"):
            subject.generate(Ask("word " * words, max_tokens=most))


def test_reasoning_that_a_server_left_in_the_text():
    assert read("two and two</think>4", "", "high") == ("4", "two and two")
    assert read("<think>two and two</think>4", "", "none") == ("4", "two and two")
    assert read("4", "two and two", "high") == ("4", "two and two")
    assert read("</think> ends it", "it was named", "high") == ("</think> ends it", "it was named")


def test_the_reasoning_is_no_answer(tokenizer):
    engine = Scripted(tokenizer)
    engine.say("It is 5.</think>It is 4.<｜end▁of▁sentence｜>")
    with serving(engine, tokenizer) as server:
        ask = Ask([{"role": "user", "content": "2 + 2?"}], effort="high", max_tokens=64)
        here = EngineSubject(engine, tokenizer, "scripted").generate(ask)
        there = UrlSubject(server.url).generate(ask)
        for reply in (here, there):
            assert (reply.text, reply.reasoning) == ("It is 4.", "It is 5.")


def test_no_server():
    with pytest.raises(SubjectError, match="cannot be reached"):
        UrlSubject("http://127.0.0.1:9")


def test_a_server_that_names_no_model(monkeypatch):
    def answer(self, method, url, **_):
        return httpx.Response(401, json={"error": {"message": "no key"}})

    monkeypatch.setattr(httpx.Client, "request", answer)
    with pytest.raises(SubjectError, match="401: no key"):
        UrlSubject("http://127.0.0.1:9")
