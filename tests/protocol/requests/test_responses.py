"""Responses: what a request becomes, and what is refused, with the place."""

import pytest

from dsv4.protocol import RequestError, RequestOptions, from_responses
from dsv4.protocol import constants as c

B, U, A, E, T, X = c.BOS, c.USER, c.ASSISTANT, c.EOS, c.THINK, c.END_THINK
OFF = {"reasoning": {"effort": "none"}}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def said(role, content):
    return {"type": "message", "role": role, "content": content}


def call(call_id, **more):
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **more}


def output(call_id, text="r"):
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def thought(*texts):
    parts = [{"type": "reasoning_text", "text": text} for text in texts]
    return {"type": "reasoning", "summary": [], "content": parts}


def prompt(*items, **more):
    return from_responses({"input": [*items], **OFF, **more}).prompt()


Q = said("user", "q")
PROMPTS = [
    ("roles", [said("developer", "d"), Q, said("system", "s")], f"{B}s{U}d\n\nq{A}{X}"),
    ("a bare message", [{"role": "user", "content": "q"}], f"{B}{U}q{A}{X}"),
    ("replies in a row are one", [Q, said("assistant", "a"), said("assistant", "b")], f"a\n\nb{E}"),
    (
        "calls gather until all are answered",
        [Q, call("1"), call("2"), output("2", "x"), output("1", "y"), Q],
        f"</{c.DSML}tool_calls>{E}{U}<tool_result>y</tool_result>\n\n<tool_result>x</",
    ),
    (
        "calls join the text before them",
        [Q, said("assistant", "a"), call("1"), output("1")],
        f"{A}{X}a\n\n<{c.DSML}tool_calls>",
    ),
    (
        "calls that were answered are a reply",
        [call("1"), output("1"), call("2"), output("2")],
        f"r</tool_result>{A}{X}\n\n<{c.DSML}tool_calls>",
    ),
    ("an output without an id is a result", [Q, output(None)], "q\n\n<tool_result>r</tool_result>"),
    (
        "images and files have fixed texts",
        [said("user", [{"type": "input_image"}, {"type": "input_file"}])],
        "[Unsupported Image]\n\n[Unsupported Document]",
    ),
    ("other items are skipped", [Q, {"type": "item_reference", "id": "x"}, Q], "q\n\nq"),
    (
        "a custom call has one text",
        [{"type": "custom_tool_call", "call_id": "1", "name": "apply_patch", "input": "{}"},
         {"type": "custom_tool_call_output", "call_id": "1", "output": "done"}],
        'name="input" string="true">{}</',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("items", "part"), [p[1:] for p in PROMPTS], ids=[p[0] for p in PROMPTS])
def test_prompts(items, part):
    assert part in prompt(*items)


def test_reasoning_joins_the_reply_that_follows():
    def thinking(*items):
        return from_responses({"input": [Q, *items, Q], "tools": [TOOL]}).prompt()

    reply = said("assistant", "a")
    assert f"{A}{T}R1\nR2{X}a{E}" in thinking(thought("R1"), thought("R2"), reply)
    assert f"{T}R{X}\n\n<{c.DSML}" in thinking(thought("R"), call("1"), output("1"))
    assert f"a{E}{A}{T}R{X}{E}" in thinking(reply, thought("R"))
    assert f"{A}{T}{X}a{E}" in thinking({"type": "reasoning", "summary": [{"text": "S"}]}, reply)


def test_input_and_instructions():
    assert from_responses({"input": "q", "instructions": "i", **OFF}).prompt() == f"{B}i{U}q{A}{X}"
    assert from_responses({"instructions": "i", **OFF}).prompt() == f"{B}i{A}{X}"


def test_namespaces_and_custom_tools():
    tools = [
        {
            "type": "namespace",
            "name": "n",
            "description": "N",
            "tools": [TOOL, TOOL | {"name": "_g"}],
        },
        TOOL | {"name": "n__f"},
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "D",
            "format": {"definition": "G"},
        },
        {"type": "web_search"},
        {"type": "unheard_of"},
    ]
    body = {"input": [Q, call("1", namespace="n"), output("1")], "tools": tools}
    read = from_responses(body | OFF)
    names = [tool["function"]["name"] for tool in read.tools]
    assert names == ["n__f_1", "n_g", "n__f", "apply_patch"]
    assert read.namespaces == {"n__f_1": ("n", "f"), "n_g": ("n", "_g")}
    assert read.custom == {"apply_patch"} and read.tools[3]["function"]["description"] == "D\n\nG"
    assert f'<{c.DSML}invoke name="n__f_1">' in read.prompt()
    assert read.echo["tools"] == tools[:4]
    custom = {"tool_choice": {"type": "custom", "name": "apply_patch"}}
    assert from_responses(body | OFF | custom).starts == "calls"
    assert from_responses(body | {"tool_choice": {"type": "web_search"}}).tool_choice == "auto"


def test_sampling_format_and_echo():
    given = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    body = {"input": "q", "text": {"format": given}, "top_logprobs": 2, "max_output_tokens": 7}
    read = from_responses(body | {"temperature": 0.5, "user": "u", "store": True})
    assert read.asked.logprobs and read.asked.top_logprobs == 2 and read.asked.max_tokens == 7
    assert read.constraint.value == {"type": "object"} and read.temperature == 1.0
    assert read.echo == {
        "text": {"format": given}, "top_logprobs": 2, "max_output_tokens": 7,
        "temperature": 0.5, "user": "u",
    }  # fmt: skip
    assert read.effort == "high"


NAMESPACE = {"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "x"}]}
BAD = [
    ("input: Either input or instructions", {"input": None}),
    ("input: is empty", {"input": []}),
    ("input: must be text", {"input": 3}),
    ("input[0].role", {"input": [said("tool", "x")]}),
    ("input[0].type: is missing", {"input": [{"content": "x"}]}),
    ("input[0].content: is missing", {"input": [{"role": "user"}]}),
    ("input[0].content[0]: would be lost", {"input": [said("assistant", [{"type": "refusal"}])]}),
    ("input[0].call_id: the call '1' has no", {"input": [call("1")]}),
    ("input[0].call_id: the call '1' has no", {"input": [call("1"), Q, output("1")]}),
    ("input[0].call_id: the call '1' has no", {"input": [call("1"), {"type": "web_search_call"}]}),
    ("input[0].call_id: '1' answers no call", {"input": [output("1")]}),
    ("input[2].call_id: '1' already has", {"input": [call("1"), output("1"), output("1")]}),
    ("input[2].call_id: '1' is the id", {"input": [call("1"), output("1"), call("1")]}),
    ("Invalid 'input[0].call_id': empty string", {"input": [call(""), output("")]}),
    ("input[0].arguments: is missing", {"input": [call("1", arguments=None)]}),
    ("previous_response_id: nothing is stored", {"previous_response_id": "r"}),
    ("conversation: nothing is stored", {"conversation": {"id": "c"}}),
    ("tools[0].name: Unsupported custom", {"tools": [{"type": "custom", "name": "x"}]}),
    ("tools[0].tools[0]: custom tools", {"tools": [NAMESPACE]}),
    ("tools[0].type: is missing", {"tools": [{"name": "f"}]}),
    ("tools[1].name: Tool names must be", {"tools": [TOOL, TOOL]}),
    ("tool_choice.type: must be", {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}),
    ("tool_choice: Thinking mode", {"tools": [TOOL], "tool_choice": "required"}),
    ("text.format.name: is missing", {"text": {"format": {"type": "json_schema", "schema": {}}}}),
    ("Response input messages must", {"text": {"format": {"type": "json_object"}}}),
    ("reasoning.effort: must be one of", {"reasoning": {"effort": "hard"}}),
    ("reasoning.summary: must be one of", {"reasoning": {"summary": "long"}}),
    ("max_output_tokens: Invalid max_tokens", {"max_output_tokens": 0}),
    ("user: must be text", {"user": 3}),
]


@pytest.mark.parametrize(("place", "body"), BAD)
def test_errors_name_the_place(place, body):
    with pytest.raises(RequestError) as error:
        from_responses({"input": "q"} | body)
    assert str(error.value).startswith(place)


def test_lenient_reading_encodes_what_can_be_encoded():
    lenient = RequestOptions(lenient=True)
    for items in (
        [],
        [call("1")],
        [output("1")],
        [call("1"), call("1"), output("1")],
        [call("1"), Q],
    ):
        with pytest.raises(RequestError):
            from_responses({"input": items})
        assert from_responses({"input": items}, lenient).prompt().endswith(f"{A}{T}")


def test_web_search_can_be_refused():
    options = RequestOptions(drop_web_search=False)
    for more in ({"tools": [{"type": "web_search"}]}, {"tool_choice": {"type": "web_search"}}):
        with pytest.raises(RequestError, match="Server tools are not supported"):
            from_responses({"input": "q"} | more, options)
