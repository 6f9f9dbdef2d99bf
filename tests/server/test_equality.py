"""Over HTTP a reply is the same alone and with everything on and too little memory."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from server.engines import engine_of
from server.running import MODEL, serving
from server.test_chat import OFF, TOOLS

from dsv4.generation import generate

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["red", "blue"]}, "size": {"enum": [1, 22, 333]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


def chat(content, **more):
    messages = [{"role": "user", "content": content}]
    return CHAT, {"messages": messages, "max_tokens": 24, **OFF} | more


def completion(prompt, **more):
    return TEXT, {"prompt": prompt, "max_tokens": 24} | more


LONG = "The dog runs to the river. " * 40
SCORED = {"logprobs": True, "top_logprobs": 4}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
PENALTIES = {"frequency_penalty": 0.8, "presence_penalty": -0.4, "repetition_penalty": 1.2}
REQUESTS = [
    chat("Tell me of the sea.", temperature=0, **SCORED),
    chat("Tell me of the sea.", seed=3, temperature=1.1, top_k=40, min_p=0.02, **SCORED),
    chat("Tell me of the sea.", seed=3, n=3),
    chat(LONG, temperature=0, stop=[" the", "zzz"], **SCORED),
    chat(LONG, seed=5, stop=[".", "and"]),
    chat(LONG, temperature=0, logit_bias={"300": 3}, **PENALTIES, **SCORED),
    chat(LONG, seed=1, **PENALTIES),
    chat("A color?", seed=2, response_format=FORM),
    chat(LONG, temperature=0, response_format=FORM, **SCORED),
    chat("A word.", seed=4, response_format={"type": "regex", "regex": "[a-z]{3,9}( [0-9]{2})?"}),
    chat("Weather?", seed=6, tools=TOOLS, tool_choice="required", max_tokens=60),
    chat(LONG, seed=7, tools=TOOLS, thinking={"type": "enabled"}),
    completion(LONG, temperature=0, logprobs=3),
    completion(LONG, seed=8, stop="\n", n=2),
    completion([5, 6, 7], temperature=0, logprobs=2, echo=True, **PENALTIES),
]


def said(server, request):
    """The choices, without the ids of calls, which are drawn."""
    path, body = request
    response = server.http.post(path, json={"model": MODEL} | body, timeout=300)
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    for choice in choices:
        for call in choice.get("message", {}).get("tool_calls", ()):
            del call["id"]
    return choices


@pytest.fixture(scope="module")
def pressed(nano, tokenizer, tmp_path_factory):
    """Drafts that are always made, prefixes on disk, and pages for a few of the requests."""
    probe = nano.new_stores(0, 0)
    engine = engine_of(
        nano,
        tokenizer,
        slots=12,
        memory=int((12 * probe.slot_bytes + 16 * probe.page_bytes) / 0.75) + 1000,
        folder=tmp_path_factory.mktemp("prefixes"),
        identity=b"nano",
        draft=0.0,
    )
    engine.drafts.pays.wanted = lambda batch: True
    with serving(engine, tokenizer) as running:
        yield running


def test_fifty_greedy_replies_are_those_of_generate(pressed, nano):
    chosen = random.Random(4)
    lengths = [*range(1, 25), *range(60, 300, 10), 500, 511]
    prompts = [[chosen.randrange(4, 8000) for _ in range(length)] for length in lengths]
    assert len(prompts) == 50
    expected = [generate(nano, prompt, temperature=0, max_tokens=8).ids for prompt in prompts]
    asks = {"temperature": 0, "max_tokens": 8, "return_token_ids": True}

    def ask(prompt):
        ids = said(pressed, completion(prompt, **asks))[0]["token_ids"]
        return ids[:-1] if ids[-1:] == [1] else ids

    for at_once in (50, 7, 1):
        some = prompts if at_once > 1 else prompts[::5]
        with ThreadPoolExecutor(at_once) as threads:
            assert list(threads.map(ask, some)) == (expected if at_once > 1 else expected[::5])
    numbers = pressed.engine.statistics()
    assert all(numbers[name] > 0 for name in ("cached_tokens", "accepted_tokens", "evicted_pages"))


def test_every_setting_gives_the_same_under_pressure(real, pressed):
    alone = [said(real, request) for request in REQUESTS]
    for _ in range(2):
        with ThreadPoolExecutor(len(REQUESTS)) as threads:
            assert list(threads.map(lambda request: said(pressed, request), REQUESTS)) == alone
    numbers = pressed.engine.statistics()
    assert numbers["preempted"] > 0 and numbers["accepted_tokens"] > 0
    reasons = {choice["finish_reason"] for choices in alone for choice in choices}
    assert {"stop", "length"} <= reasons
