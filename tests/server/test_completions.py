"""Completions: texts, ids, gaps, and the arrays that lm-eval reads."""

import openai
import pytest
from server.running import MODEL
from server.test_chat import EOS


def ask(server, prompt="once upon", **more):
    return server.openai.completions.create(model=MODEL, prompt=prompt, **more)


def test_a_text_and_its_stream(server):
    server.say(f" a time{EOS}")
    reply = ask(server)
    assert reply.choices[0].text == " a time" and reply.choices[0].finish_reason == "stop"
    assert server.engine.jobs[0].ids == [0, *server.engine.tokenizer.encode("once upon")]
    assert server.engine.jobs[0].sampling.max_tokens == 16
    chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks[:-1]) == " a time"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 3


def test_an_end_that_is_ignored(server):
    server.say(f" a{EOS} b{EOS}")
    reply = ask(server, extra_body={"ignore_eos": True}, max_tokens=4)
    assert reply.choices[0].text == " a b" and reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 4
    ask(server, extra_body={"ignore_eos": True, "stop_token_ids": [7]})
    assert list(server.engine.jobs[-1].end_ids) == [7]
    ask(server, extra_body={"stop_token_ids": [7]})
    assert list(server.engine.jobs[-1].end_ids) == [1, 7]


def test_many_prompts_and_choices(server):
    server.say(f" x{EOS}")
    reply = ask(server, ["a", "b"], n=2, echo=True)
    assert [choice.text for choice in reply.choices] == ["a x", "a x", "b x", "b x"]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert reply.usage.prompt_tokens == 4
    ids = server.engine.tokenizer.encode("once upon")
    for prompt in (ids, [ids, ids[:1]]):
        server.engine.jobs.clear()
        ask(server, prompt)
        asked = [list(job.ids) for job in server.engine.jobs]
        assert asked == (prompt if isinstance(prompt[0], list) else [prompt])  # no BOS is added


def test_a_gap(server):
    server.say(f"b{EOS}")
    reply = server.openai.completions.create(model=MODEL, prompt="a<think>", suffix="c")
    assert reply.choices[0].text == "b"
    one = server.engine.tokenizer
    begin, hole, end = (one.token_id(f"<｜fim▁{name}｜>") for name in ("begin", "hole", "end"))
    plain = one.encode("a<think>")
    assert one.token_id("<think>") not in plain
    assert server.engine.jobs[0].ids == [0, begin, *plain, hole, *one.encode("c"), end]


@pytest.mark.parametrize("limit", [0, 1])
def test_arrays_as_lm_eval_reads_them(server, limit):
    one = server.engine.tokenizer
    ids = one.encode("the sun is")
    for said in (" up", EOS):
        server.say(f"{said}")
        body = {"model": MODEL, "prompt": [ids], "echo": True, "max_tokens": limit, "logprobs": 1}
        reply = server.http.post("/v1/completions", json=body | {"temperature": 0}).json()
        arrays = reply["choices"][0]["logprobs"]
        assert [len(values) for values in arrays.values()] == [len(ids) + limit] * 4
        assert arrays["token_logprobs"][0] is None and arrays["top_logprobs"][0] is None
        assert arrays["tokens"][: len(ids)] == [one.decode([i]) for i in ids]
        for token, logprob, tops in list(
            zip(*(arrays[k] for k in ("tokens", "token_logprobs", "top_logprobs")), strict=True)
        )[1:]:
            assert tops[token] == logprob
        offsets = arrays["text_offset"]
        assert "the sun is"[offsets[1] : offsets[2]] == arrays["tokens"][1]
        assert reply["usage"]["completion_tokens"] == limit


def test_stop_and_control_tokens(server):
    server.say(f" a<think> b STOP c{EOS}")
    assert ask(server, stop="STOP").choices[0].text == " a b "
    assert ask(server, stop="STOP").choices[0].finish_reason == "stop"
    ask(server, "<｜User｜>x")
    assert server.engine.tokenizer.token_id("<｜User｜>") in server.engine.jobs[-1].ids


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": [-1]},
        {"prompt": [10**9]},
        {"prompt": "x", "logprobs": 99},
        {"prompt": "x", "max_tokens": 0},
        {"prompt": "x", "max_tokens": 10**6},
        {"prompt": "x", "best_of": 3},
        {"prompt": [1, "a"]},
        {"prompt": {"a": 1}},
        {"prompt": "x", "suffix": 3},
        {"prompt": [1], "suffix": "x"},
    ],
)
def test_what_is_refused(server, body):
    response = server.http.post("/v1/completions", json=body | {"model": MODEL})
    assert response.status_code == 400 and response.json()["error"]["message"], response.text
    assert not server.engine.jobs


def test_an_unknown_model(server):
    with pytest.raises(openai.BadRequestError, match="supported API model names"):
        server.openai.completions.create(model="other", prompt="x")
