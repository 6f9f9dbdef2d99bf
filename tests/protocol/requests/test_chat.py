"""Chat Completions: what a request becomes, and what is refused, with the place."""

import pytest

from dsv4.protocol import RequestError, RequestOptions, from_openai
from dsv4.protocol import constants as c

B, U, A, E, T, X = c.BOS, c.USER, c.ASSISTANT, c.EOS, c.THINK, c.END_THINK
USER = {"role": "user", "content": "q"}
OFF = {"thinking": {"type": "disabled"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}


def system(text):
    return {"role": "system", "content": text}


def says(text, **more):
    return {"role": "assistant", "content": text, **more}


def calls(*ids, arguments="{}"):
    made = [
        {"id": i, "type": "function", "function": {"name": "f", "arguments": arguments}}
        for i in ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(call_id, text="r"):
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def prompt(*messages, **more):
    return from_openai({"messages": [*messages], **OFF, **more}).prompt()


PROMPTS = [
    ("all system messages stand first", [system("a"), USER, system(""), system("b")], "a\n\nb" + U),
    ("developer is system", [{"role": "developer", "content": "d"}, USER], "d" + U + "q"),
    ("a reply is opened after system", [USER, system("s")], "s" + U + "q" + A + X),
    ("a reply is opened after a reply", [USER, says("x")], "q" + A + X + "x" + E + A + X),
    ("every reply is opened", [says("x"), says("y")], f"{B}{A}{X}x{E}{A}{X}y{E}{A}{X}"),
    (
        "the reply is opened after a reminder",
        [USER, {"role": "latest_reminder", "content": "l"}],
        f"q{c.LATEST_REMINDER}l{A}{X}",
    ),
    (
        "empty texts between texts vanish",
        [system(""), USER, USER | {"content": ""}, USER],
        "q\n\nq",
    ),
    ("nothing said is an empty turn", [USER | {"content": ""}], f"{B}{U}{A}"),
    (
        "results stand in the order of the calls",
        [USER, calls("b", "a"), result("a", "1"), result("b", "2"), USER],
        "<tool_result>2</tool_result>\n\n<tool_result>1</tool_result>\n\nq" + A,
    ),
    (
        "a result may be empty",
        [calls("a"), result("a", None)],
        f"{U}<tool_result></tool_result>{A}",
    ),
    (
        "images and files have fixed texts",
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": "u"}},
                    {"type": "file", "file": {}},
                    {"type": "input_audio"},
                ],
            }
        ],
        "see\n\n[Unsupported Image]\n\n[Unsupported Image]\n\n[Unsupported input_audio]",
    ),
    (
        "the billing header is cut",
        [system("x-anthropic-billing-header: cc=1; cch=2;\n  You help."), USER],
        f"{B}You help.{U}",
    ),
    (
        "the billing header is cut up to the text",
        [system("x-anthropic-billing-header: cc=1; You are D."), USER],
        f"{B}You are D.{U}",
    ),
    ("a billing header alone vanishes", [system("x-anthropic-billing-header: 1"), USER], B + U),
    ("a task takes the reply's place", [USER | {"task": "query"}], "q" + c.TASKS["query"]),
]


@pytest.mark.parametrize(
    ("messages", "part"), [p[1:] for p in PROMPTS], ids=[p[0] for p in PROMPTS]
)
def test_prompts(messages, part):
    text = prompt(*messages)
    assert part in text and "None" not in text


ARGUMENTS = {
    '{"a": 1, "a": "x"}': ("a", "true", "x"),
    '{"a": [1, {"é": null}]}': ("a", "false", '[1, {"é": null}]'),
    "[1]": ("arguments", "true", "[1]"),
    "null": ("arguments", "true", "null"),
    '"x"': ("arguments", "true", '"x"'),
    "": ("arguments", "true", ""),
    '{"a": NaN}': ("arguments", "true", '{"a": NaN}'),
    '{"a": 1e999}': ("arguments", "true", '{"a": 1e999}'),
    '{"a": "\\ud800"}': ("arguments", "true", '{"a": "\\ud800"}'),
    '{"a": "\\ud83d\\ude00"}': ("a", "true", "😀"),
    '{"a": 12345678901234567890123}': ("a", "false", "12345678901234567890123"),
    '{"a":' * 127 + "1" + "}" * 127: ("a", "false", '{"a": ' * 126 + "1" + "}" * 126),
    '{"a":' * 128 + "1" + "}" * 128: ("arguments", "true", '{"a":' * 128 + "1" + "}" * 128),
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_arguments_that_are_no_object_go_as_text(arguments):
    key, string, value = ARGUMENTS[arguments]
    text = prompt(USER, calls("1", arguments=arguments), result("1"))
    end = f"</{c.DSML}parameter>"
    assert f'<{c.DSML}parameter name="{key}" string="{string}">{value}{end}' in text
    assert text.count("<" + c.DSML + "parameter") == 1


def test_reasoning_stays_while_tools_are_in_force():
    talk = [USER, says("x", reasoning_content="why"), USER]
    with_tools = from_openai({"messages": talk, "tools": [TOOL]}).prompt()
    assert f"{A}{T}why{X}x{E}" in with_tools
    for body in ({}, {"tools": [TOOL], "tool_choice": "none"}, {"tools": []}):
        assert f"{A}{X}x{E}" in from_openai({"messages": talk} | body).prompt()
    assert "why" not in prompt(*talk, tools=[TOOL])


PREFIXES = [
    ("thinking", "C", "R", f"{A}{T}R{X}C", "content"),
    ("thinking", "C", None, f"{A}{T}{X}C", "content"),
    ("thinking", "", "R", f"{A}{T}R", "reasoning"),
    ("thinking", "", None, f"{A}{T}", "reasoning"),
    ("chat", "C", "R", f"{A}{X}C", "content"),
    ("chat", "", None, f"{A}{X}", "content"),
]


@pytest.mark.parametrize(("mode", "content", "reasoning", "end", "starts"), PREFIXES)
def test_a_prefix_is_gone_on_with(mode, content, reasoning, end, starts):
    said = says(content, reasoning_content=reasoning, prefix=True)
    body = {"messages": [USER, said]} | ({} if mode == "thinking" else OFF)
    request = from_openai(body)
    assert request.prompt() == f"{B}{U}q{end}"
    assert request.starts == starts and request.continues
    opened = from_openai({"messages": [USER, says(content, wo_eos=True)]} | OFF)
    assert opened.prompt() == f"{B}{U}q{A}{X}{content}"


def test_the_choice_among_tools():
    other = {"type": "function", "function": {"name": "g", "strict": False, "x": 1}}
    body = {"messages": [USER], "tools": [TOOL, other], **OFF}
    auto = from_openai(body)
    lines = '{"name": "f", "description": "", "parameters": {"type": "object"}}\n'
    lines += '{"name": "g", "description": "", "parameters": {}}\n'
    assert lines in auto.prompt() and auto.constraint.kind == "tool_call"
    assert auto.starts == "content" and len(auto.tools) == 2
    none = from_openai(body | {"tool_choice": "none"})
    assert none.prompt() == prompt(USER) and not none.tools and none.constraint is None
    required = from_openai(body | {"tool_choice": "required"})
    assert required.prompt() == f"{auto.prompt()}\n\n<{c.DSML}tool_calls>\n"
    assert required.starts == "calls" and required.constraint.kind == "tool_call_required"
    named = from_openai(body | {"tool_choice": NAMED})
    assert [tool["function"]["name"] for tool in named.tools] == ["f"]
    assert '{"name": "g"' not in named.prompt() and named.starts == "calls"
    assert from_openai({"messages": [USER], "tool_choice": "required"}).tool_choice == "auto"


def test_formats_of_the_answer():
    schema = {"b": 1.0, "a": [], "type": "object"}
    given = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    request = from_openai({"messages": [system("s"), USER], "response_format": given, **OFF})
    assert f'{B}s\n\n{c.RESPONSE_FORMAT}{{"b": 1.0, "a": [], "type": "object"}}{U}' in (
        request.prompt()
    )
    assert request.constraint.value == schema and request.constraint.kind == "json"
    json_mode = prompt(USER | {"content": "as JSON"}, response_format={"type": "json_object"})
    assert json_mode.startswith(f"{B}\n\n{c.JSON_OBJECT}{U}as JSON")
    regex = from_openai({"messages": [USER], "response_format": {"type": "regex", "regex": "a+"}})
    assert regex.constraint.text() == "a+" and "Response Format" not in regex.prompt()
    text = {"messages": [USER], "response_format": {"type": "text"}}
    assert from_openai(text).constraint is None
    strict = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}, "strict": True}}
    held = from_openai({"messages": [USER], "response_format": strict}).constraint.value
    assert held["additionalProperties"] is False


def test_sampling_is_checked_and_thinking_has_its_own():
    asked = {"temperature": 0.3, "top_p": 0.4, "seed": 3, "max_completion_tokens": 9, "stop": "x"}
    body = {"messages": [USER], **asked}
    chat = from_openai(body | OFF)
    assert (chat.temperature, chat.top_p) == (0.3, 0.4)
    assert chat.asked.seed == 3 and chat.asked.max_tokens == 9 and chat.stop == ("x",)
    thinking = from_openai(body)
    assert (thinking.temperature, thinking.top_p, thinking.asked.temperature) == (1.0, 1.0, 0.3)
    assert from_openai(body | {"tools": [TOOL]}).top_p == 0.95
    assert from_openai(body | {"tools": [TOOL], "tool_choice": "none"}).top_p == 1.0


EFFORTS = [
    ({}, ("thinking", "high")),
    ({"reasoning_effort": "none"}, ("chat", None)),
    ({"reasoning_effort": "low"}, ("thinking", "low")),
    ({"reasoning_effort": "xhigh"}, ("thinking", "high")),
    ({"reasoning_effort": "ultra"}, ("thinking", "max")),
    ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, ("thinking", "high")),
    ({"thinking": {"type": "adaptive", "budget_tokens": 5}}, ("thinking", "high")),
    ({"thinking": {"type": "disabled"}, "reasoning_effort": "max"}, ("chat", None)),
    ({"thinking": None, "reasoning_effort": None}, ("thinking", "high")),
]


@pytest.mark.parametrize(("body", "found"), EFFORTS)
def test_thinking_and_effort(body, found):
    request = from_openai({"messages": [USER]} | body, RequestOptions(revision="2026-07"))
    assert (request.thinking_mode, request.effort) == found
    april = from_openai({"messages": [USER]} | body)
    assert april.effort in (None, "high", "max") and april.thinking_mode == found[0]


def test_options_win_over_the_request():
    body = {"messages": [USER], "reasoning_effort": "low"}
    assert from_openai(body, RequestOptions(effort="max")).effort == "max"
    assert from_openai(body, RequestOptions(effort="none")).thinking_mode == "chat"
    assert from_openai(body | OFF, RequestOptions(thinking=True)).thinking_mode == "thinking"
    assert from_openai([USER], RequestOptions(default_thinking=False)).thinking_mode == "chat"
    served = RequestOptions(models=["b", "a"])
    assert from_openai(body | {"model": "a"}, served).model == "a"
    with pytest.raises(RequestError, match="names are a, b, but you passed c"):
        from_openai(body | {"model": "c"}, served)
    with pytest.raises(RequestError, match="model: is missing"):
        from_openai(body, served)
    need = RequestOptions(need_reasoning=True)
    with pytest.raises(RequestError, match="`reasoning_content` in the thinking mode must be"):
        from_openai([USER, calls("1"), result("1")], need)
    marked = [USER, calls("call_00_ET_x"), result("call_00_ET_x")]
    assert from_openai(marked, need).prompt()


def test_the_encoders_own_fields_count():
    own = system("s") | {"tools": [TOOL], "response_format": {"type": "object"}}
    text = prompt(own, USER, tools=[{"type": "function", "function": {"name": "g"}}])
    assert text.index('{"name": "f"') < text.index('{"name": "g"') < text.index("Response Format")
    title = prompt(USER, says("x", task="title"), says("On q"))
    assert f"x{E}{c.TASKS['title']}On q{E}{A}{X}" in title


MUTE = {"type": "function", "function": {"name": ""}}
SPACED = {"type": "function", "function": {"name": "a b"}}
BARE = {"type": "function", "function": {"name": "f", "parameters": {}}}
OTHER = {"type": "function", "function": {"name": "g"}}
CALL_12, ONE, PREFIX = calls("1", "2"), result("1"), says("x", prefix=True)
SCHEMALESS = {"type": "json_schema"}
BAD = [
    ("messages: is missing", {"messages": None}),
    ("messages: is empty", {"messages": []}),
    ("messages: must be a list", {"messages": "x"}),
    ("messages[1]: must be an object", {"messages": [USER, "x"]}),
    ("messages[0].role: must be one of", {"messages": [{"role": "boss", "content": "x"}]}),
    ("messages[0].content: is missing", {"messages": [{"role": "user", "content": None}]}),
    ("messages[0].content[1]: must be", {"messages": [USER | {"content": [{"type": "x"}, 3]}]}),
    ("messages[0].content[0].text", {"messages": [USER | {"content": [{"type": "text"}]}]}),
    ("messages[0]: Invalid assistant message", {"messages": [says(None)]}),
    ("messages[0].tool_calls: is empty", {"messages": [says("x", tool_calls=[])]}),
    ("messages[0].tool_calls[0].id: the call '1' has no", {"messages": [calls("1"), USER]}),
    ("messages[0].tool_calls[1].id: the call '2' has no", {"messages": [CALL_12, ONE]}),
    ("messages[1].tool_call_id: '3' answers no", {"messages": [calls("1"), result("3")]}),
    ("messages[2].tool_call_id: '1' already", {"messages": [CALL_12, ONE, ONE]}),
    ("messages[0].tool_call_id: '1' answers no", {"messages": [result("1")]}),
    ("messages[1].tool_call_id: is missing", {"messages": [calls("1"), {"role": "tool"}]}),
    ("messages[0].tool_calls[1].id: '1' is the id", {"messages": [calls("1", "1")]}),
    ("messages[0].tool_calls[0].function.arguments", {"messages": [calls("1", arguments=3)]}),
    ("messages[0].prefix: only the last", {"messages": [says("x", prefix=True), USER]}),
    ("messages[1].prefix: Function call should", {"messages": [USER, PREFIX], "tools": [TOOL]}),
    ("messages[0].function_call: would be lost", {"messages": [says("x", function_call={"a": 1})]}),
    ("messages[0].refusal: would be lost", {"messages": [says("x", refusal="no")]}),
    ("messages[0].content[0]: would be lost", {"messages": [says([{"type": "refusal"}])]}),
    ("messages[0].task", {"messages": [USER | {"task": "sing"}]}),
    ("functions: would be lost", {"functions": [{"name": "f"}]}),
    ("Invalid 'tools[0].function.name': empty", {"tools": [MUTE]}),
    ("Invalid 'tools[0].function.name': string does", {"tools": [SPACED]}),
    ("tools[1].function.name: Tool names must be unique.", {"tools": [TOOL, TOOL]}),
    ("tools[0].type", {"tools": [{"type": "x"}]}),
    ("tools[0].function.parameters.type: Invalid", {"tools": [BARE]}),
    ("tool_choice: Thinking mode does not", {"tools": [TOOL], "tool_choice": "required"}),
    ("tool_choice: Invalid value for 'tool_call'", {"tools": [TOOL], "tool_choice": OTHER}),
    ("tool_choice: must be none", {"tool_choice": "any"}),
    ("Prompt must contain the word", {"response_format": {"type": "json_object"}}),
    ("response_format.type: must be", {"response_format": {"type": "xml"}}),
    ("response_format.json_schema.schema: is missing", {"response_format": SCHEMALESS}),
    ("temperature: Invalid temperature value", {"temperature": 2.5}),
    ("top_p: Invalid top_p value", {"top_p": 0}),
    ("max_tokens: Invalid max_tokens value", {"max_tokens": 0}),
    ("max_completion_tokens: Invalid max_tokens", {"max_completion_tokens": 0}),
    ("max_tokens: must be an integer", {"max_tokens": 1.5}),
    ("seed: Invalid seed", {"seed": 2**63}),
    ("n: Invalid n", {"n": 2}),
    ("top_logprobs: Invalid top_logprobs", {"top_logprobs": 3}),
    ("stop: Stop string array too long: 17", {"stop": ["x"] * 17}),
    ("Invalid 'stop[1]': empty string", {"stop": ["x", ""]}),
    ("stream_options should be set", {"stream_options": {}}),
    ("reasoning_effort: must be one of", {"reasoning_effort": "High"}),
    ("thinking.type: must be", {"thinking": {"type": "on"}}),
    ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": -1}}),
    ("stream: must be true or false", {"stream": "yes"}),
]  # fmt: skip


@pytest.mark.parametrize(("place", "body"), BAD, ids=[place for place, _ in BAD])
def test_errors_name_the_place(place, body):
    with pytest.raises(RequestError) as error:
        from_openai({"messages": [USER]} | body)
    assert str(error.value).startswith(place)


LENIENT = [
    ([], f"{B}{A}{X}"),
    ([calls("1"), USER], f"{E}{U}q{A}"),
    ([result("1")], f"{B}{U}<tool_result>r</tool_result>{A}"),
    ([calls("1", "1"), result("1"), result("1")], "r</tool_result>\n\n<tool_result>r<"),
    ([says(None), USER], f"{B}{A}{X}{E}{U}q"),
    ([says("x", tool_calls=[]), USER], f"{A}{X}x{E}{U}q"),
    ([says("x", prefix=True), USER], f"{A}{X}x{E}{U}q"),
    ([says("x", refusal="no", function_call={})], f"{A}{X}x{E}"),
    ([{"role": "tool", "content": "r"}], "<tool_result>r</tool_result>"),
    ([{"role": "user", "content": None}], f"{B}{U}{A}{X}"),
]


@pytest.mark.parametrize(("messages", "part"), LENIENT)
def test_lenient_reading_encodes_what_can_be_encoded(messages, part):
    with pytest.raises(RequestError):
        from_openai({"messages": messages} | OFF)
    read = from_openai({"messages": messages} | OFF, RequestOptions(lenient=True))
    assert part in read.prompt() and not read.continues
