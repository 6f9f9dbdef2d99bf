"""What Completions tells and takes beyond OpenAI's, for fronts and trainers: as vLLM names it."""

import json

import pytest
from server.running import MODEL
from server.test_chat import EOS

PATH = "/v1/completions"


def ask(server, **more):
    return server.http.post(PATH, json={"model": MODEL, "prompt": [0, 5, 6], "seed": 4} | more)


@pytest.mark.parametrize("logprobs", [None, 2])
def test_ids_of_what_was_said(server, logprobs):
    """Control tokens and the end among them, which the text does not show."""
    server.say(f" a<think> é{EOS}")
    ids = server.engine.tokenizer.encode(f" a<think> é{EOS}", special=True)
    body = {"return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": logprobs}
    (choice,) = ask(server, **body).json()["choices"]
    assert choice["token_ids"] == ids and choice["prompt_token_ids"] == [0, 5, 6]
    assert choice["text"] == " a é"
    lines = ask(server, stream=True, **body).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[0]["choices"] == [] and chunks[0]["dsv4"]["reused_tokens"] == 2
    told = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [i for choice in told for i in choice["token_ids"]] == ids
    if logprobs is not None:
        arrays = choice["logprobs"]
        assert arrays["tokens"] == [f"token_id:{i}" for i in ids]
        assert arrays["top_logprobs"][0] == {f"token_id:{ids[0]}": -0.5, "token_id:7": -1.0}
        scored = [one["logprobs"]["tokens"] for one in told if one["logprobs"]]
        assert [name for names in scored for name in names] == arrays["tokens"]


def test_without_asking_nothing_of_it_is_there(server):
    server.say(EOS)
    text = ask(server).text + ask(server, stream=True).text
    assert "token_ids" not in text and "token_id:" not in text


def test_where_a_reply_goes_on(server):
    server.say(EOS)
    assert ask(server, n=2, dsv4={"number": 3, "said": 2}).is_success
    assert [(job.number, job.said) for job in server.engine.jobs] == [(3, 2), (4, 2)]


SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}}


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"type": "text"}, None),
        ({"type": "structural_tag", "format": {"type": "any_text"}}, {"type": "any_text"}),
        ({"type": "regex", "regex": "a+"}, {"type": "regex", "pattern": "a+"}),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
            {"type": "json_schema", "json_schema": SCHEMA},
        ),
    ],
)
def test_formats(server, given, form):
    server.say(EOS)
    assert ask(server, response_format=given).is_success
    found = server.engine.jobs[0].grammar
    assert found == (form and {"type": "structural_tag", "format": form})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"dsv4": {"said": 3}}, "dsv4.said"),
        ({"dsv4": {"said": -1}}, "dsv4.said"),
        ({"dsv4": {"number": "x"}}, "dsv4.number"),
        ({"dsv4": []}, "dsv4"),
        ({"return_token_ids": 1}, "return_token_ids"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "structural_tag", "format": 3}}, "response_format.format"),
        ({"response_format": {"type": "regex"}}, "response_format.regex"),
    ],
)
def test_what_is_refused(server, body, param):
    reply = ask(server, **body)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param
    assert not server.engine.jobs
