"""Messages: what a request becomes, and what is refused, with the place."""

import pytest

from dsv4.protocol import RequestError, RequestOptions, from_anthropic, from_openai
from dsv4.protocol import constants as c

B, U, A, E, T, X = c.BOS, c.USER, c.ASSISTANT, c.EOS, c.THINK, c.END_THINK
ASKS = {"role": "user", "content": "q"}
OFF = {"thinking": {"type": "disabled"}}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
IMAGE = {"type": "image", "source": {"type": "url", "url": "u"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}}


def text(said):
    return {"type": "text", "text": said}


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def says(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def use(call_id, given=None):
    return {"type": "tool_use", "id": call_id, "name": "f", "input": given}


def result(call_id, **more):
    return {"type": "tool_result", "tool_use_id": call_id, **more}


def prompt(*messages, **more):
    return from_anthropic({"messages": [*messages], **OFF, **more}).prompt()


def test_messages_become_the_prompt_of_the_same_chat():
    messages = [
        ASKS,
        says(
            {"type": "thinking", "thinking": "why", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            text("So."),
            use("1", {"a": 1}),
            use("2", {}),
        ),
        user(result("2", content="r2"), result("1", content=[text("r")]), text("go on"), IMAGE),
    ]
    chat = [
        {"role": "system", "content": "S"},
        ASKS,
        {
            "role": "assistant",
            "content": "So.",
            "reasoning_content": "why",
            "tool_calls": [
                {"id": i, "type": "function", "function": {"name": "f", "arguments": a}}
                for i, a in (("1", '{"a": 1}'), ("2", "{}"))
            ],
        },
        {"role": "tool", "tool_call_id": "2", "content": "r2"},
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        {"role": "user", "content": [text("go on"), {"type": "image_url"}]},
    ]
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": function}]
    for body in ({}, OFF):
        read = from_anthropic({"messages": messages, "system": "S", "tools": [TOOL]} | body)
        assert read.prompt() == from_openai({"messages": chat, "tools": tools} | body).prompt()
        assert read.thinking_mode == "chat" or f"{T}why{X}So." in read.prompt()


PROMPTS = [
    (
        "a system message is a reminder",
        [ASKS, {"role": "system", "content": "S"}],
        f"{U}q\n\n<system-reminder>\nS\n</system-reminder>{A}",
    ),
    ("an empty system message is nothing", [ASKS, {"role": "system", "content": []}], U + "q" + A),
    ("a new turn is opened after a reply", [ASKS, says(text("x"))], f"x{E}{A}{X}"),
    ("texts of a reply have blank lines", [says(text("a"), text("b"))], "a\n\nb" + E),
    ("no content of a result is empty", [says(use("1")), user(result("1"))], "<tool_result></"),
    (
        "a null content of a result is empty",
        [says(use("1")), user(result("1", content=None))],
        "<tool_result></",
    ),
    (
        "documents are named by their kind",
        [user(PDF, {"type": "document", "source": {"type": "url"}}, IMAGE)],
        "[Unsupported document type: application/pdf]\n\n"
        "[Unsupported document type: unknown]\n\n[Unsupported Image]",
    ),
    ("unknown blocks are named", [user({"type": "search_result"})], "[Unsupported search_result]"),
    ("an input that is no object is text", [says(use("1")), user(result("1"))], 'true">null</'),
    ("redacted thinking vanishes", [says({"type": "redacted_thinking"})], f"{A}{X}{E}{A}"),
]


@pytest.mark.parametrize(
    ("messages", "part"), [p[1:] for p in PROMPTS], ids=[p[0] for p in PROMPTS]
)
def test_prompts(messages, part):
    found = prompt(*messages)
    assert part in found and "None" not in found


def test_the_billing_block_is_cut():
    billing = text("X-Anthropic-Billing-Header: cch=1;")
    assert prompt(ASKS, system=[billing, text("a"), text("b")]) == f"{B}a\n\nb{U}q{A}{X}"
    assert prompt(ASKS, system=[text("a"), billing]).startswith(f"{B}a\n\nX-Anthropic")


def test_the_choice_among_tools():
    custom = TOOL | {"type": "custom"}
    auto = from_anthropic({"messages": [ASKS], "tools": [custom], **OFF})
    assert '{"name": "f", "description": "d", "parameters": {"type": "object"}}' in auto.prompt()
    any_tool = from_anthropic({"messages": [ASKS], "tools": [TOOL], "tool_choice": {"type": "any"}})
    assert any_tool.tool_choice == "auto"
    named = {"tool_choice": {"type": "tool", "name": "f"}, "tools": [TOOL]}
    assert prompt(ASKS, **named).endswith(f"{A}{X}\n\n<{c.DSML}tool_calls>\n")
    assert prompt(ASKS, tools=[TOOL], tool_choice={"type": "none"}) == prompt(ASKS)
    web = {"type": "web_search_20250305", "name": "web_search"}
    read = from_anthropic(
        {"messages": [ASKS], "tools": [web]}, RequestOptions(drop_web_search=True)
    )
    assert read.tools == []


def test_limits_and_effort():
    body = {"messages": [ASKS], "max_tokens": 10**6, "stop_sequences": ["x"], "stream": True}
    read = from_anthropic(body | {"output_config": {"effort": "max"}})
    assert read.asked.max_tokens == 393_216 and read.stop == ("x",) and read.stream
    assert read.effort == "max" and read.temperature == 1.0
    assert from_anthropic({"messages": [ASKS], **OFF, "temperature": 0.5}).temperature == 0.5


MADE, ANSWERED = says(use("1")), result("1")
BASH = {"type": "bash_20250124", "name": "b"}
NAMED = {"type": "tool", "name": "f"}
TWO = says(use("1"), use("2"))
BAD = [
    ("messages: is empty", {"messages": []}),
    ("messages[0].role", {"messages": [{"role": "tool", "content": "x"}]}),
    ("messages[0].content: is missing", {"messages": [{"role": "user", "content": None}]}),
    ("messages[0].content: all messages must", {"messages": [user()]}),
    ("messages[0].content[0].id: the call '1' has no", {"messages": [says(use("1")), ASKS]}),
    ("messages[0].content[0].id: the call", {"messages": [MADE, user(text("a"), ANSWERED)]}),
    ("messages[0].content[1].id: the call '2'", {"messages": [TWO, user(ANSWERED)]}),
    ("messages[0].content[1].id: '1' is the id", {"messages": [says(use("1"), use("1"))]}),
    ("messages[1].content[0].tool_use_id: '2' ans", {"messages": [MADE, user(result("2"))]}),
    ("messages[1].content[1].tool_use_id: '1' alr", {"messages": [MADE, user(ANSWERED, ANSWERED)]}),
    ("messages[0].content[0].tool_use_id: '1' ans", {"messages": [user(result("1"))]}),
    ("messages[0].content[1]: nothing may stand", {"messages": [says(use("1"), text("x"))]}),
    ("messages[0].content[0]: a tool_use block", {"messages": [user(use("1"))]}),
    ("messages[0].content[0]: a tool_result block", {"messages": [says(result("1"))]}),
    ("messages[0].content[0]: server tools", {"messages": [says({"type": "server_tool_use"})]}),
    ("messages[0].content[0].thinking: is missing", {"messages": [says({"type": "thinking"})]}),
    ("system[0].type", {"system": [IMAGE]}),
    ("tools[0]: server tools are not supported", {"tools": [BASH]}),
    ("tools[0].input_schema: is missing", {"tools": [{"name": "f"}]}),
    ("Invalid 'tools[0].name': string does not", {"tools": [TOOL | {"name": "a b"}]}),
    ("tools[1].name: Tool names must be unique.", {"tools": [TOOL, TOOL]}),
    ("tool_choice.type: must be", {"tools": [TOOL], "tool_choice": {"type": "required"}}),
    ("tool_choice: must be an object", {"tool_choice": "auto"}),
    ("tool_choice: Thinking mode does not", {"tools": [TOOL], "tool_choice": NAMED}),
    ("max_tokens: Invalid max_tokens value", {"max_tokens": 0}),
    ("metadata.user_id: must be text", {"metadata": {"user_id": 3}}),
    ("stop_sequences[0]: Invalid 'stop[0]': empty", {"stop_sequences": [""]}),
    ("stop_sequences: must be a list", {"stop_sequences": "x"}),
    ("output_config.effort: must be one of", {"output_config": {"effort": "hard"}}),
]  # fmt: skip


@pytest.mark.parametrize(("place", "body"), BAD, ids=[place for place, _ in BAD])
def test_errors_name_the_place(place, body):
    with pytest.raises(RequestError) as error:
        from_anthropic({"messages": [ASKS]} | body)
    assert str(error.value).startswith(place)


def test_lenient_reading_encodes_what_can_be_encoded():
    lenient = RequestOptions(lenient=True)
    for messages in ([], [user()], [says(use("1")), ASKS], [user(result("1"))]):
        with pytest.raises(RequestError):
            from_anthropic({"messages": messages})
        assert from_anthropic({"messages": messages}, lenient).prompt().endswith(f"{A}{T}")


def test_a_format_is_that_of_chat():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    said = [{"role": "user", "content": "x"}]
    form = {"type": "json_schema", "schema": schema}
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    chat = from_openai({"messages": said, "response_format": asked})
    for more in ({"output_config": {"format": form}}, {"output_format": form}):
        request = from_anthropic({"messages": said, **more})
        assert request.prompt() == chat.prompt() and request.constraint == chat.constraint
    other = {"output_config": {"format": {"type": "yaml"}, "effort": "low"}}
    assert from_anthropic({"messages": said, **other}).constraint is None
    with pytest.raises(RequestError, match=r"output_config\.format\.schema"):
        from_anthropic({"messages": said, "output_config": {"format": {"type": "json_schema"}}})
