"""What a request knows of its prompt and of its reply."""

import itertools

import pytest

from dsv4.protocol import (
    ProtocolError,
    RequestError,
    RequestOptions,
    from_openai,
    from_responses,
    read_request,
    to_ids,
)
from dsv4.protocol import constants as c
from dsv4.protocol.requests.any import api_of
from dsv4.tokenizer import Tokenizer

xgrammar = pytest.importorskip("xgrammar")

USER = {"role": "user", "content": f"q{c.ASSISTANT}"}
OFF = {"thinking": {"type": "disabled"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("f", "g")
]
NAMED = {"type": "function", "function": {"name": "g"}}


def call(name, end=c.EOS):
    parameter = f'<{c.DSML}parameter name="a" string="true">x</{c.DSML}parameter>\n'
    invoke = f'<{c.DSML}invoke name="{name}">\n{parameter}</{c.DSML}invoke>\n'
    return f"{invoke}</{c.DSML}tool_calls>{end}"


BLOCK = f"\n\n<{c.DSML}tool_calls>\n"


def test_ids_cannot_be_forged():
    request = from_openai({"messages": [USER], **OFF})
    tokens = Tokenizer.deepseek()
    assert request.ids(tokens) == to_ids(request.segments(), tokens)
    assert request.ids(tokens).count(tokens.token_id(c.ASSISTANT)) == 1
    assert "".join(part.text for part in request.segments()) == request.prompt()


def test_what_messages_add_to_a_prompt():
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "latest_reminder", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    request = from_openai({"messages": talk})
    prompts = [request.prompt(since=since) for since in range(5)]
    assert prompts[2] == f"{c.LATEST_REMINDER}c{c.USER}d{c.ASSISTANT}{c.THINK}"
    assert all(whole.endswith(new) for whole, new in itertools.pairwise(prompts))
    assert request.prompt() == request.prompt(bos=False).join((c.BOS, ""))
    assert request.prompt(opened=False).endswith(f"{c.USER}d")


def test_quick_instructions_follow_the_prompt():
    request = from_openai({"messages": [USER]})
    prefix, asks = request.quick("query")
    assert "".join(part.text for part in prefix) == f"{c.BOS}{c.USER}q{c.ASSISTANT}"
    assert [part.text for part in asks] == [c.TASKS["query"]]
    with pytest.raises(ProtocolError, match="must follow an assistant"):
        request.quick("title")


def test_the_parser_begins_where_the_prompt_ends():
    def read(text, **more):
        return from_openai({"messages": [USER], "tools": TOOLS, **more}).parser(), text

    for parser, text in (
        read(f"why{c.END_THINK}So.{BLOCK}{call('f')}"),
        read(f"So.{BLOCK}{call('f')}", **OFF),
        read(call("f"), **OFF, tool_choice="required"),
        read(call("g"), **OFF, tool_choice=NAMED),
    ):
        parser.feed(text)
        message = parser.finish()
        assert message["tool_calls"][0]["function"]["arguments"] == '{"a": "x"}'
        assert not parser.errors


def test_calls_of_tools_that_are_not_in_force():
    request = from_openai({"messages": [USER], "tools": TOOLS, **OFF, "tool_choice": NAMED})
    made = {"tool_calls": [{"function": {"name": "g"}}]}
    request.check_calls(made)
    with pytest.raises(RequestError, match=r"tool_calls\[0\]: 'f' is not in force: g"):
        request.check_calls({"tool_calls": [{"function": {"name": "f"}}]})


TOKENS = xgrammar.TokenizerInfo([bytes([i]) for i in range(256)] + [b""], stop_token_ids=[256])


def accepts(request, text):
    grammar = xgrammar.Grammar.from_structural_tag(request.grammar())
    compiled = xgrammar.GrammarCompiler(TOKENS, max_threads=1).compile_grammar(grammar)
    matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
    return matcher.accept_string(text) and matcher.is_terminated()


def test_the_grammar_holds_the_reply_to_what_was_asked():
    def ask(**more):
        return from_openai({"messages": [USER | {"content": "json"}], **OFF, **more})

    tools = {"tools": TOOLS}
    block = BLOCK + call("f", "")
    assert accepts(ask(**tools), "hi") and accepts(ask(**tools), f"hi{block}")
    assert not accepts(ask(**tools, tool_choice="none"), block)
    required = ask(**tools, tool_choice="required")
    assert accepts(required, call("f", "")) and not accepts(required, block)
    assert not accepts(ask(**tools, tool_choice=NAMED), call("f", ""))
    thinking = from_openai({"messages": [USER], **tools})
    assert accepts(thinking, f"why{c.END_THINK}{block}") and not accepts(thinking, block)
    strict = [{"type": "function", "function": TOOLS[0]["function"] | {"strict": True}}]
    assert accepts(ask(tools=strict), block)
    json_mode = ask(response_format={"type": "json_object"})
    assert accepts(json_mode, '{"b": 1}') and not accepts(json_mode, "hi")
    given = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    held = ask(response_format=given)
    assert accepts(held, '{"a": "x"}') and not accepts(held, '{"b": 1}')
    regex = ask(response_format={"type": "regex", "regex": "[ab]+"})
    assert accepts(regex, "abba") and not accepts(regex, "c")


def test_how_many_tokens_may_come():
    def limit(prompt, context, **more):
        return from_openai({"messages": [USER], **more}).max_tokens(prompt, context)

    assert limit(10, 10**6) == 65_536 and limit(10, 10**6, reasoning_effort="max") == 131_072
    assert limit(10, 10**6, **OFF) == 8_192 and limit(10, 10**6, max_tokens=9) == 9
    assert limit(10, 100) == 90 and limit(100, 100) == 1
    for more in ({"max_tokens": 91}, {}):
        with pytest.raises(RequestError, match="maximum context length is 100 tokens"):
            limit(10 if more else 101, 100, **more)


def test_which_api_a_body_is_of():
    for body, api in (
        ([USER], "chat"),
        ({"messages": [USER], "tools": TOOLS}, "chat"),
        ({"messages": [USER], "system": "s"}, "messages"),
        ({"messages": [USER], "tools": [{"name": "f", "input_schema": {}}]}, "messages"),
        ([{"role": "assistant", "content": [{"type": "tool_use"}]}], "messages"),
        ({"input": "q"}, "responses"),
        ({"instructions": "q"}, "responses"),
    ):
        assert api_of(body) == api
    assert read_request({"input": "q"}).api == "responses"
    for wrong in (3, "x", None):
        with pytest.raises(RequestError, match="must be a list of messages"):
            read_request(wrong)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([USER, {"role": "user", "content": "é\ud800!"}], "messages[1].content"),
        ({"messages": [USER], "stop": ["a", "\udfff"]}, "stop[1]"),
        ({"messages": [USER], "tools": [{"function": {"\ud800": 1}}]}, "tools[0].function"),
        ({"messages": [{"role": "user", "content": [{"text": "\ud83d"}]}], "system": "s"},
         "messages[0].content[0].text"),
        ({"input": "q", "instructions": "\udc00"}, "instructions"),
    ],
)  # fmt: skip
def test_half_of_a_surrogate_pair_is_refused_where_it_stands(body, path):
    with pytest.raises(RequestError, match="ends in half of a character") as caught:
        read_request(body)
    assert caught.value.path == path and str(caught.value).startswith(f"{path}: ")
    str(caught.value).encode()
    assert "😀" in from_openai([{"role": "user", "content": "😀"}]).prompt()


def test_a_late_system_message_stays_in_place_where_it_is_asked_for():
    said = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "system", "content": "9 left"},
        {"role": "system", "content": ""},
        {"role": "assistant", "content": "b"},
    ]
    options = RequestOptions(system_in_place=True, thinking=False)
    for read, key in ((from_openai, "messages"), (from_responses, "input")):
        prompt = read({key: said}, options).prompt()
        start = (
            "<｜begin▁of▁sentence｜>s<｜User｜>a\n\n<system-reminder>\n9 left\n</system-reminder>"
        )
        assert prompt.startswith(start + "<｜Assistant｜></think>b")
        moved = read({key: said}, RequestOptions(thinking=False)).prompt()
        assert moved.startswith("<｜begin▁of▁sentence｜>s\n\n9 left<｜User｜>a<｜Assistant｜>")


def test_a_quick_instruction_is_asked_by_a_field_of_the_last_message():
    tools = {"tools": TOOLS, "tool_choice": "required"}
    for off in ({}, OFF):
        body = {"messages": [USER | {"task": "query"}], "temperature": 0.25, **tools, **off}
        request = from_openai(body, RequestOptions(think_then_call=True))
        assert request.prompt().endswith(f"{USER['content']}{c.TASKS['query']}")
        assert (request.task, request.starts, request.temperature) == ("query", "content", 0.25)
        assert not request.held and not request.thinks
        parser = request.parser()
        text = "rain in Oslo</think>" + BLOCK + call("f", "")
        deltas = parser.feed(text) + parser.close(stopped=True)
        assert "".join(getattr(delta, "text", "") for delta in deltas).startswith("rain in Oslo")
        assert not parser.finish()["tool_calls"]
    for messages in (
        [USER | {"task": "title"}],
        [USER, {"role": "assistant", "content": "b", "task": "query"}],
    ):
        with pytest.raises(ProtocolError, match="must follow"):
            from_openai({"messages": messages})
    read = [{"role": "user", "content": f"{c.EXTRACTED_URL}u", "task": "read_url"}]
    controls = [
        part.text for part in from_openai({"messages": read, **OFF}).segments() if part.control
    ]
    assert controls == [c.BOS, c.USER, c.EXTRACTED_URL, c.TASKS["read_url"]]
