"""The dialogue: what it remembers, and what it computes again."""

import threading

import pytest

from dsv4.chat import BusyError, Chat, Reasoning, _pieces
from dsv4.generation import Completion
from dsv4.protocol.constants import END_THINK
from dsv4.protocol.effort import resolve_effort
from dsv4.protocol.encode import encode_ids
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file):
    return Tokenizer.load(tokenizer_file)


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    return make_model(spread=0.2, vocab_size=tokenizer.vocab_size)


def answer(chat, text):
    return "".join(piece.text for piece in chat.ask(text))


def test_a_kept_cache_says_what_a_fresh_one_says(model, tokenizer):
    sampling = Sampling(temperature=0, max_tokens=12)
    for effort in ("none", "high", "max"):
        kept, fresh = Chat(model, tokenizer, sampling), Chat(model, tokenizer, sampling)
        kept.effort = fresh.effort = effort
        for line in ("Hello", "What is that?", "And then?"):
            fresh.cache, fresh.cached = model.new_cache(1), []
            assert answer(kept, line) == answer(fresh, line)


def test_only_what_is_new_is_computed(model, tokenizer, monkeypatch):
    chat, fed = Chat(model, tokenizer, Sampling(temperature=0, max_tokens=5)), []
    streams = model.streams_and_targets
    monkeypatch.setattr(
        model,
        "streams_and_targets",
        lambda ids, *rest: fed.append(ids.shape[1]) or streams(ids, *rest),
    )
    answer(chat, "x" * 100)
    before = len(fed)
    answer(chat, "y")
    assert fed[0] > 100 and fed[before] < 50  # the reply may be spelled anew, the prompt is kept


def test_interrupting_keeps_what_was_said(model, tokenizer):
    chat, seen = Chat(model, tokenizer, Sampling(seed=1, max_tokens=50)), []
    for piece in chat.ask("Hello", interrupted=lambda: len(seen) >= 3):
        seen.append(piece.text)
    assert chat.messages[-1]["content"] == "".join(seen) and len(chat.messages) == 2
    chat.reset()
    assert not chat.messages and chat.cache.lengths == [0]


class Drawn:
    """A reply whose ids are known."""

    def __init__(self, ids):
        self.drawn, self.completion = ids, Completion([], "", "length")

    def ids(self):
        for token in self.drawn:
            self.completion.ids.append(token)
            yield token
        self.completion.finish_reason = "stop"


def test_a_stop_string_counts_in_the_answer_alone(model, tokenizer):
    chat = Chat(model, tokenizer, Sampling(stop="STOP"))
    chat.effort = "high"
    ids = [*tokenizer.encode("STOP?"), tokenizer.token_id(END_THINK)]
    reply = Drawn([*ids, *tokenizer.encode("Yes STOP no")])
    pieces = list(_pieces(chat._parser(), reply, tokenizer.stream()))
    assert "".join(piece.text for piece in pieces) == "STOP?Yes "
    assert reply.completion.finish_reason == "stop"
    assert reply.completion.ids == reply.drawn[: -len(" no")]


def test_reasoning_is_told_from_content(model, tokenizer):
    chat = Chat(model, tokenizer, Sampling())
    chat.effort = "high"
    ids = [*tokenizer.encode("I think."), tokenizer.token_id(END_THINK)]
    ids += tokenizer.encode("Yes. </think>\n")
    pieces = list(_pieces(chat._parser(), Drawn(ids), tokenizer.stream()))
    assert "".join(p.text for p in pieces if isinstance(p, Reasoning)) == "I think."
    assert "".join(p.text for p in pieces if not isinstance(p, Reasoning)) == "Yes. </think>\n"


def test_a_dialogue_past_the_context_is_refused_and_kept(make_model, tokenizer):
    model = make_model(vocab_size=tokenizer.vocab_size, max_position_embeddings=30)
    chat = Chat(model, tokenizer, Sampling(max_tokens=2))
    with pytest.raises(ValueError, match="the context is 30"):
        answer(chat, "x" * 40)
    assert not chat.messages and answer(chat, "x") is not None


def test_the_remedy_is_the_one_that_helps(make_model, tokenizer):
    model = make_model(vocab_size=tokenizer.vocab_size, max_position_embeddings=40)
    chat = Chat(model, tokenizer, Sampling(max_tokens=2), system="Be brief.")
    assert chat.messages == [{"role": "system", "content": "Be brief."}]
    with pytest.raises(ValueError, match="the context is 40: shorten the message"):
        answer(chat, "x" * 60)
    answer(chat, "x" * 15)
    with pytest.raises(ValueError, match="the context is 40: reset the dialogue"):
        answer(chat, "x" * 15)
    chat.reset()
    assert len(chat.messages) == 1 and answer(chat, "x" * 15) is not None


def test_one_reply_at_a_time(model, tokenizer):
    chat = Chat(model, tokenizer, Sampling(seed=1, max_tokens=20))
    first = chat.ask("Hello")
    next(first)
    with pytest.raises(BusyError, match="read that reply to its end"):
        next(chat.ask("And?"))
    with pytest.raises(BusyError):
        chat.reset()
    refused = []

    def other():
        try:
            list(chat.ask("And?"))
        except BusyError:
            refused.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert refused == [True] and not chat.messages
    first.close()  # abandoned: nothing of it is kept, and the next may come
    said = answer(chat, "Hello")
    assert said == answer(Chat(model, tokenizer, chat.sampling), "Hello")
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]


def test_a_prompt_is_left_between_two_pieces(model, tokenizer, monkeypatch):
    monkeypatch.setattr("dsv4.generation.PREFILL", 16)
    sampling = Sampling(temperature=0, max_tokens=4)
    chat, asked = Chat(model, tokenizer, sampling), iter([False, False, True])
    assert not [p for p in chat.ask("x" * 100, interrupted=lambda: next(asked)) if p.text]
    assert chat.completion.finish_reason == "interrupted" and chat.cache.lengths == [32]
    assert not chat.messages
    assert answer(chat, "x" * 100) == answer(Chat(model, tokenizer, sampling), "x" * 100)


def test_the_revision_is_the_checkpoints_unless_told(make_model, tokenizer):
    model = make_model(vocab_size=tokenizer.vocab_size, effort_revision="2026-07")
    assert Chat(model, tokenizer, Sampling()).revision == "2026-07"
    for revision in ("2026-04", "2026-07"):
        chat = Chat(model, tokenizer, Sampling(), effort="max", revision=revision)
        mode, effort = resolve_effort("max", revision)
        talk = [{"role": "user", "content": "Hi"}]
        wanted = encode_ids(talk, tokenizer, mode, reasoning_effort=effort, revision=revision)
        assert chat._encode(talk) == wanted
