"""The whole way with the packaged model and its engine: HTTP → ids → engine → HTTP."""

import json
import threading

import pytest
from server.running import MODEL
from server.test_chat import OFF, TOOLS

import dsv4

PROMPTS = ["How do I boil an egg?", "Name a color.", "What is rain?", "Write about dogs. " * 20]


def chat(server, messages, **more):
    body = {"extra_body": OFF, "temperature": 0, "max_tokens": 24} | more
    return server.openai.chat.completions.create(model=MODEL, messages=messages, **body)


def test_greedy_replies_are_those_of_generate_at_any_concurrency(real, nano):
    tokenizer = real.service.tokenizer
    ids = [[0, *tokenizer.encode(text)] for text in PROMPTS]
    expected = [dsv4.generate(nano, one, tokenizer, temperature=0, max_tokens=24) for one in ids]
    found = [None] * len(ids)

    def ask(number):
        create = real.openai.completions.create
        reply = create(model=MODEL, prompt=ids[number], temperature=0, max_tokens=24)
        found[number] = reply.choices[0].text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(ids))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = [[i for i in one.ids if tokenizer.control_text(i) is None] for one in expected]
    assert found == [tokenizer.decode(one) for one in shown]


def test_calls_that_are_forced_end_by_themselves(real):
    named = {"type": "function", "function": {"name": "time"}}
    for choice in ("required", named):
        reply = chat(
            real,
            [{"role": "user", "content": "Weather in Oslo?"}],
            tools=TOOLS,
            tool_choice=choice,
            temperature=1,
            seed=3,
            max_tokens=900,
        )
        (choice_,) = reply.choices
        assert len(choice_.message.tool_calls) == 1  # one, where nothing is said of more
        assert choice_.finish_reason in ("tool_calls", "length")
        (call,) = choice_.message.tool_calls
        assert choice == "required" or call.function.name == "time"
        if choice_.finish_reason == "tool_calls":
            assert isinstance(json.loads(call.function.arguments), dict)
        assert "DSML" not in (choice_.message.content or "")


def test_json_is_held_to_its_schema(real):
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}
    for seed in range(3):
        reply = chat(
            real, [{"role": "user", "content": "x"}], response_format=form, temperature=1, seed=seed
        )
        assert json.loads(reply.choices[0].message.content)["color"] in ("red", "blue")


def test_seeds_and_choices(real):
    ask = [{"role": "user", "content": "Tell me of the sea."}]
    one = chat(real, ask, temperature=1, seed=5, n=3)
    two = chat(real, ask, temperature=1, seed=5, n=3)
    texts = [choice.message.content for choice in one.choices]
    assert texts == [choice.message.content for choice in two.choices] and len(set(texts)) > 1
    greedy = chat(real, ask, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert all(e.logprob == max(t.logprob for t in e.top_logprobs) for e in greedy)


def test_log_likelihoods_of_given_ids(real, nano):
    import torch

    ids = real.service.tokenizer.encode("The sun is very hot today")
    body = {"model": MODEL, "prompt": [ids], "echo": True, "max_tokens": 1, "logprobs": 1}
    arrays = real.http.post("/v1/completions", json=body | {"temperature": 0}).json()
    arrays = arrays["choices"][0]["logprobs"]
    with torch.inference_mode():
        logits = nano(torch.tensor([ids]), nano.new_cache(1))[0].double().log_softmax(-1)
    want = [logits[at, token].item() for at, token in enumerate(ids[1:])]
    assert arrays["token_logprobs"][1 : len(ids)] == pytest.approx(want, abs=1e-4)
    assert len(arrays["tokens"]) == len(ids) + 1


def test_hostile_grammars_are_refused_in_time(real):
    for form in (
        {"type": "regex", "regex": "(a{1,1000}){1,1000}"},
        {"type": "regex", "regex": "("},
        {"type": "regex", "regex": "(a|aa)+$" * 50},
    ):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
        response = real.http.post(
            "/v1/chat/completions", json=body | {"response_format": form} | OFF, timeout=20
        )
        assert response.status_code in (200, 400), response.text


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}]},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "string", "pattern": "[^\\s\\S]"},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_nothing_fits_is_the_clients_fault(real, schema, stream):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": stream}
    response = real.http.post("/v1/chat/completions", json=body | OFF | {"response_format": form})
    begun = response.status_code == 200 and stream  # a quote fits, and nothing behind it
    assert begun or response.status_code == 400, response.text
    told = response.text.split("data: ")[-1] if begun else response.text
    error = json.loads(told)["error"]
    assert error["type"] == "invalid_request_error" and "grammar" in error["message"]


def test_leaving_gives_everything_back(real):
    before = real.engine.statistics()
    for _ in range(3):
        body = {"model": MODEL, "prompt": "Once", "max_tokens": 2000, "stream": True}
        with real.http.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_bytes())
    for _ in range(200):
        now = real.engine.statistics()
        if now["running"] == 0 and now["free_slots"] == before["free_slots"]:
            break
        threading.Event().wait(0.05)
    assert now["running"] == 0 and now["free_slots"] == before["free_slots"]
