"""The JSON that frameworks send, as their public documents show it: structure by forced calls and
by schemas, streams of calls, and what they send back."""

import json

import pytest
from server.running import MODEL

PERSON = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["Ann", "Bob"], "description": "First name"},
        "age": {"type": "integer", "minimum": 1, "maximum": 9},
        "home": {"$ref": "#/$defs/Home"},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
    "$defs": {
        "Home": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}, "rooms": {"enum": [1, 22]}},
            "required": ["city", "rooms"],
            "additionalProperties": False,
        }
    },
}
OFF = {"thinking": {"type": "disabled"}}


def is_person(value):
    return (
        set(value) == {"name", "age", "home"}
        and value["name"] in ("Ann", "Bob")
        and value["age"] in range(1, 10)
        and value["home"]["city"] in ("Oslo", "Rome")
        and value["home"]["rooms"] in (1, 22)
    )


def chat(server, **body):
    said = [{"role": "system", "content": "You help."}, {"role": "user", "content": "Who?"}]
    body = {"model": MODEL, "messages": said, "temperature": 0, "max_tokens": 300, **OFF} | body
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response


def tool(**more):
    function = {"name": "person", "description": "Answer with it.", "parameters": PERSON} | more
    return {"type": "function", "function": function}


@pytest.mark.parametrize("strict", [{}, {"strict": False}, {"strict": True}])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "person"}}]
)
def test_an_object_by_a_forced_call(real, strict, choice):
    """One call that ends by itself, whole and streamed, and what is sent back is taken."""
    asked = {"tools": [tool(**strict)], "tool_choice": choice}
    (choice_,) = chat(real, **asked).json()["choices"]
    message = choice_["message"]
    (call,) = message["tool_calls"]
    assert choice_["finish_reason"] == "tool_calls" and not message["content"]
    assert is_person(json.loads(call["function"]["arguments"]))
    lines = chat(real, **asked, stream=True, stream_options={"include_usage": True}).text
    chunks = [json.loads(line[6:]) for line in lines.split("\n\n") if line.startswith("data: {")]
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    calls = [part for delta in deltas for part in delta.get("tool_calls", ())]
    assert [part["id"] for part in calls if "id" in part] == [calls[0]["id"]]
    assert {part["index"] for part in calls} == {0} and calls[0]["function"]["name"] == "person"
    assert is_person(json.loads("".join(part["function"]["arguments"] for part in calls)))
    said = [
        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": "", "tool_calls": message["tool_calls"]},
        {"role": "tool", "tool_call_id": call["id"], "content": '{"type":"json","value":{"a":1}}'},
    ]
    again = chat(real, messages=said, tools=[tool(**strict)], tool_choice="auto", max_tokens=4)
    assert again.json()["usage"]["completion_tokens"] <= 4


@pytest.mark.parametrize("strict", [False, True])
def test_an_object_by_a_schema(real, strict):
    form = {"name": "response", "schema": PERSON, "strict": strict}
    (choice,) = chat(real, response_format={"type": "json_schema", "json_schema": form}).json()[
        "choices"
    ]
    assert is_person(json.loads(choice["message"]["content"])) and choice["finish_reason"] == "stop"


def test_an_object_by_responses(real):
    body = {
        "model": MODEL,
        "input": [
            {"role": "system", "content": "You help."},
            {"role": "user", "content": [{"type": "input_text", "text": "Who?"}]},
        ],
        "reasoning": {"effort": "none"},
        "max_output_tokens": 300,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }
    form = {"type": "json_schema", "name": "response", "schema": PERSON, "strict": True}
    reply = real.http.post("/v1/responses", json=body | {"text": {"format": form}}).json()
    assert is_person(json.loads(reply["output"][0]["content"][0]["text"]))
    function = {"type": "function", "name": "person", "parameters": PERSON, "strict": True}
    more = {"tools": [function], "tool_choice": {"type": "function", "name": "person"}}
    (call,) = real.http.post("/v1/responses", json=body | more).json()["output"]
    assert call["type"] == "function_call" and is_person(json.loads(call["arguments"]))


def test_an_object_by_messages(real):
    body = {
        "model": MODEL,
        "max_tokens": 300,
        "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}],
        **OFF,
    }
    form = {"output_config": {"format": {"type": "json_schema", "schema": PERSON}}}
    reply = real.http.post("/v1/messages?beta=true", json=body | form).json()
    assert is_person(json.loads(reply["content"][0]["text"]))
    given = {"name": "person", "description": "Answer with it.", "input_schema": PERSON}
    for choice in ({"type": "any"}, {"type": "tool", "name": "person"}):
        more = {"tools": [given], "tool_choice": choice}
        reply = real.http.post("/v1/messages", json=body | more).json()
        (block,) = reply["content"]
        assert reply["stop_reason"] == "tool_use" and is_person(block["input"])
