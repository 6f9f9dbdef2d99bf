"""Chat Completions through OpenAI's client."""

import json

import openai
import pytest
import xgrammar
from server.running import MODEL

USER = [{"role": "user", "content": "hello"}]
OFF = {"thinking": {"type": "disabled"}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
    for name in ("weather", "time")
]
BLOCK = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
    '</｜DSML｜invoke>\n<｜DSML｜invoke name="time">\n'
    '<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
EOS = "<｜end▁of▁sentence｜>"


def ask(server, **more):
    return server.openai.chat.completions.create(model=MODEL, messages=USER, **more)


def test_a_whole_reply(server):
    server.say(f"I think</think>Good day.{EOS}")
    reply = ask(server)
    (choice,) = reply.choices
    assert reply.object == "chat.completion" and reply.model == MODEL
    assert choice.message.content == "Good day."
    assert choice.message.reasoning_content == "I think"
    assert choice.finish_reason == "stop"
    usage = reply.usage
    said = len(server.engine.scripts[0])
    assert usage.completion_tokens == said
    assert usage.prompt_tokens == len(server.engine.jobs[0].ids)
    assert usage.total_tokens == usage.prompt_tokens + said
    assert usage.prompt_cache_hit_tokens == usage.prompt_tokens_details.cached_tokens == 3
    assert usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens == usage.prompt_tokens
    assert usage.completion_tokens_details.reasoning_tokens == len(
        server.engine.tokenizer.encode("I think")
    )
    assert reply.dsv4["reused_tokens"] == 3 and reply.dsv4["not_reused_because"] == "first differs"


def test_a_stream_adds_up_and_never_changes_its_id(server):
    server.say(f"I think</think>Good day.{BLOCK}{EOS}")
    chunks = list(ask(server, stream=True, tools=TOOLS, stream_options={"include_usage": True}))
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    *rest, last = chunks
    assert last.choices == [] and last.usage.completion_tokens == len(server.engine.scripts[0])
    assert all(chunk.usage is None for chunk in rest)
    deltas = [chunk.choices[0].delta for chunk in rest]
    assert deltas[0].role == "assistant"
    kinds = [
        "r" if getattr(d, "reasoning_content", None) else "c" if d.content else "" for d in deltas
    ]
    assert "".join(kinds).lstrip("r").strip("c") == ""  # reasoning wholly before content
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "I think"
    assert "".join(d.content or "" for d in deltas) == "Good day."
    calls = {}
    for delta in deltas:
        for call in delta.tool_calls or []:
            made = calls.setdefault(call.index, [call.id, call.function.name, ""])
            made[2] += call.function.arguments
    assert [(made[1], json.loads(made[2])) for made in calls.values()] == [
        ("weather", {"city": "Oslo", "days": 3}),
        ("time", {"city": "Rome"}),
    ]
    assert all(made[0].startswith(f"call_0{n}_") for n, made in calls.items())
    assert rest[-1].choices[0].finish_reason == "tool_calls"


def test_usage_in_a_stream_only_when_asked(server):
    server.say(f"</think>x{EOS}")
    chunks = list(ask(server, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_a_round_with_two_tools_and_results_out_of_order(server):
    server.say(f"</think>{BLOCK}{EOS}", f"</think>Sunny, noon.{EOS}")
    first = ask(server, tools=TOOLS).choices[0].message
    a, b = first.tool_calls
    results = [
        {"role": "tool", "tool_call_id": b.id, "content": "noon"},
        {"role": "tool", "tool_call_id": a.id, "content": "sunny"},
    ]
    messages = [*USER, first.model_dump(exclude_none=True), *results]
    second = server.openai.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    assert second.choices[0].message.content == "Sunny, noon."
    prompt = server.engine.tokenizer.decode(server.engine.jobs[-1].ids)
    assert prompt.index("sunny") < prompt.index("noon")  # in the order of their calls


def test_n_choices(server):
    server.say(f"</think>one{EOS}", f"</think>two{EOS}")
    reply = ask(server, n=2, seed=5)
    assert {choice.message.content for choice in reply.choices} == {"one", "two"}
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert [(job.number, job.sampling.seed) for job in server.engine.jobs] == [(0, 5), (1, 5)]
    assert reply.usage.prompt_tokens == len(server.engine.jobs[0].ids)
    server.say(f"</think>one{EOS}", f"</think>two{EOS}")
    texts = {}
    for chunk in ask(server, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert set(texts.values()) == {"one", "two"}


def test_logprobs(server):
    server.say(f"I think</think>Good day.{EOS}")
    (choice,) = ask(server, logprobs=True, top_logprobs=2).choices
    entries = choice.logprobs.content
    assert "".join(e.token for e in entries) == "Good day."
    assert all(len(e.top_logprobs) == 2 and e.logprob == -0.5 for e in entries)
    assert bytes(b for e in entries for b in e.bytes).decode() == "Good day."
    reasoning = choice.logprobs.reasoning_content
    assert "".join(e["token"] for e in reasoning) == "I think"
    streamed = [
        entry.token
        for chunk in ask(server, logprobs=True, stream=True)
        if (scores := chunk.choices[0].logprobs) and scores.content
        for entry in scores.content
    ]
    assert "".join(streamed) == "Good day."


def test_stop_strings_and_ids(server):
    server.say(f"one two three four{EOS}")
    (choice,) = ask(server, stop=[" three"], extra_body=OFF).choices
    assert (choice.message.content, choice.finish_reason) == ("one two", "stop")
    three = server.engine.tokenizer.encode(" three")
    ask(server, extra_body={**OFF, "stop_token_ids": three})
    assert server.engine.jobs[-1].end_ids == (1, *three)


def test_a_limit(server):
    server.say(f"one two three four{EOS}")
    (choice,) = ask(server, max_tokens=2, extra_body=OFF).choices
    assert (choice.message.content, choice.finish_reason) == ("one two", "length")
    (choice,) = ask(server, max_completion_tokens=1, extra_body=OFF).choices
    assert choice.message.content == "one"


def test_a_prefix_is_continued_and_not_repeated(server):
    server.say(f" world{EOS}")
    messages = [*USER, {"role": "assistant", "content": "hello", "prefix": True}]
    reply = server.openai.chat.completions.create(model=MODEL, messages=messages, extra_body=OFF)
    assert reply.choices[0].message.content == " world"


def test_what_is_sampled(server):
    server.say(f"x{EOS}")
    ask(
        server,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"7": -100},
        extra_body=OFF | {"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.5},
    )
    job = server.engine.jobs[-1]
    s = job.sampling
    assert (s.temperature, s.top_p, s.top_k, s.min_p) == (0.5, 0.9, 4, 0.1)
    assert (job.presence_penalty, job.frequency_penalty, job.repetition_penalty) == (1, -1, 1.5)
    assert job.logit_bias == {7: -100.0} and job.grammar is None
    ask(server, temperature=0.5, top_p=0.9, presence_penalty=1, extra_body={"top_k": 4})
    job = server.engine.jobs[-1]
    assert (job.sampling.temperature, job.sampling.top_p, job.sampling.top_k) == (1.0, 1.0, 0)
    assert job.presence_penalty == 0


def test_what_holds_the_reply(server):
    server.say(f"x{EOS}")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    ask(server, response_format=form, extra_body=OFF)
    job = server.engine.jobs[-1]
    held = json.dumps(job.grammar)
    assert '"a"' in held and '"additionalProperties": false' in held
    assert not server.engine.jobs[-1].end_ids


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("several", [None, True])
@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "time"}}]
)
def test_calls_are_held_to_the_protocol(server, choice, several, thinks):
    """A forced choice is one call, unless the client asks for several in so many words."""
    server.say(f"</think>x{EOS}")
    more = {} if several is None else {"parallel_tool_calls": several}
    ask(server, tools=TOOLS, tool_choice=choice, extra_body={} if thinks else OFF, **more)
    grammar = server.engine.jobs[-1].grammar
    forced = choice != "auto"
    before = "hm</think>" if thinks else ""
    opened = BLOCK.split("tool_calls>\n", 1)[1] if forced and not thinks else BLOCK
    one = opened[: opened.index("<｜DSML｜invoke")] + opened[opened.rindex("<｜DSML｜invoke") :]
    assert accepts(grammar, before + one)  # of the tool that a choice may name
    free = choice == "auto" or (choice == "required" and several is True)
    assert accepts(grammar, before + opened) == free
    assert accepts(grammar, before + "plain") == (not forced)
    assert not accepts(grammar, before + opened.replace("weather", "other"))


def accepts(grammar, text):
    """Whether a reply may be that, by xgrammar."""
    pieces = [bytes([i]) for i in range(256)] + [b""]
    tokens = xgrammar.TokenizerInfo(pieces, stop_token_ids=[256])
    compiled = xgrammar.GrammarCompiler(tokens, max_threads=1).compile_grammar(
        xgrammar.Grammar.from_structural_tag(grammar)
    )
    matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
    return matcher.accept_string(text) and matcher.is_terminated()


def test_no_tools_no_calls(server):
    server.say(f"</think>a{BLOCK}{EOS}")
    reply = ask(server, tools=TOOLS, tool_choice="none")
    assert reply.choices[0].message.tool_calls is None
    assert "｜DSML｜" not in reply.choices[0].message.content
    assert server.engine.jobs[-1].grammar is None
    assert "weather" not in server.engine.tokenizer.decode(server.engine.jobs[-1].ids)


def test_calls_though_the_reasoning_was_not_closed(server):
    server.say(f"let me look{BLOCK}{EOS}")
    (choice,) = ask(server, tools=TOOLS).choices
    assert [call.function.name for call in choice.message.tool_calls] == ["weather", "time"]
    assert choice.finish_reason == "tool_calls"


def test_thinking_and_effort(server):
    server.say(f"x{EOS}")
    decode = server.engine.tokenizer.decode
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        ask(server, reasoning_effort=effort)
        prompt = decode(server.engine.jobs[-1].ids)
        assert prompt.endswith("</think>" if effort == "none" else "<think>")
        assert ("Absolute maximum" in prompt) == (effort in ("xhigh", "max"))
        ask(server, reasoning_effort=effort, extra_body=OFF)  # subagents send both
        assert decode(server.engine.jobs[-1].ids).endswith("</think>")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"max_tokens": 10_000}, None),
        ({"stop": ""}, "stop"),
    ],
)
def test_what_is_refused(server, more, param):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(server, stream=stream, **more)
        error = caught.value.response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error" and error["param"] == param
    if "max_tokens" in more:
        assert "This model's maximum context length is 4096 tokens" in error["message"]
        assert error["code"] == "context_length_exceeded"
    assert not server.engine.jobs


def test_unknown_fields_and_nulls_are_ignored(server):
    server.say(f"</think>x{EOS}")
    body = {"model": MODEL, "messages": USER, "tools": None, "n": None, "user": "u", "zzz": 1}
    reply = server.http.post("/beta/chat/completions?beta=true", json=body)
    assert reply.status_code == 200, reply.text
