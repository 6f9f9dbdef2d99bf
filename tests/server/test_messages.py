"""Messages through Anthropic's client."""

import json

import anthropic
import pytest
from server.running import MODEL
from server.test_chat import BLOCK, EOS, accepts

USER = [{"role": "user", "content": "hello"}]
OFF = {"type": "disabled"}
TOOLS = [
    {
        "name": name,
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    }
    for name in ("weather", "time")
]


def ask(server, **more):
    return server.anthropic.messages.create(
        **({"model": MODEL, "max_tokens": 500, "messages": USER} | more)
    )


def test_a_whole_message(server):
    server.say(f"I think</think>Good day.{EOS}")
    reply = ask(server)
    thinking, text = reply.content
    assert (thinking.type, thinking.thinking, thinking.signature) == (
        "thinking",
        "I think",
        reply.id,
    )
    assert (text.type, text.text) == ("text", "Good day.")
    assert (reply.stop_reason, reply.stop_sequence, reply.role) == ("end_turn", None, "assistant")
    usage, prompt = reply.usage, len(server.engine.jobs[0].ids)
    assert usage.cache_read_input_tokens == 3 and usage.input_tokens == prompt - 3
    assert usage.output_tokens == len(server.engine.scripts[0])


def test_a_stream(server):
    server.say(f"I think</think>Good day.{BLOCK}{EOS}")
    with server.anthropic.messages.stream(
        model=MODEL, max_tokens=500, messages=USER, tools=TOOLS
    ) as stream:
        reply = stream.get_final_message()
    assert [block.type for block in reply.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert reply.content[0].signature == reply.id
    assert reply.content[2].input == {"city": "Oslo", "days": 3}
    assert reply.content[3].input == {"city": "Rome"}
    assert reply.stop_reason == "tool_use"
    assert reply.usage.output_tokens == len(server.engine.scripts[0])


def test_events_one_open_block_at_a_time(server):
    server.say(f"I think</think>Good day.{BLOCK}{EOS}")
    body = {"model": MODEL, "max_tokens": 500, "messages": USER, "tools": TOOLS, "stream": True}
    response = server.http.post("/anthropic/v1/messages", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    opened, indexes, kinds = None, [], []

    for event in response.text.strip().split("\n\n"):
        if event.startswith(":"):
            continue
        name, data = event.split("\n")
        data = json.loads(data.removeprefix("data: "))
        assert name == f"event: {data['type']}"
        kinds.append(data["type"])
        if data["type"] == "content_block_start":
            assert opened is None
            opened = data["index"]
            indexes.append(opened)
        elif data["type"] == "content_block_delta":
            assert data["index"] == opened
            last = data["delta"]["type"]
        elif data["type"] == "content_block_stop":
            assert data["index"] == opened
            assert opened or last == "signature_delta"
            opened = None
    assert indexes == [0, 1, 2, 3]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]


def test_a_stop_sequence_and_a_limit(server):
    server.say(f"one two three four{EOS}")
    reply = ask(server, stop_sequences=[" three"], thinking=OFF)
    assert (reply.content[0].text, reply.stop_reason) == ("one two", "stop_sequence")
    assert reply.stop_sequence == " three"
    reply = ask(server, max_tokens=1, thinking=OFF)
    assert (reply.content[0].text, reply.stop_reason) == ("one", "max_tokens")


def test_a_round_of_tools_with_thinking_passed_back(server):
    server.say(f"hm</think>{BLOCK}{EOS}", f"</think>Sunny, noon.{EOS}")
    first = ask(server, tools=TOOLS)
    calls = [block for block in first.content if block.type == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": text}
        for call, text in zip(calls[::-1], ("noon", "sunny"), strict=True)
    ]
    said = [block.model_dump(exclude={"caller", "citations"}) for block in first.content]
    unsigned = [{k: v for k, v in block.items() if k != "signature"} for block in said]
    for content in (said, unsigned):
        history = [*USER, {"role": "assistant", "content": content}]
        history.append({"role": "user", "content": results})
        second = ask(server, tools=TOOLS, messages=history)
        assert second.content[-1].text == "Sunny, noon."
        prompt = server.engine.tokenizer.decode(server.engine.jobs[-1].ids)
        assert "hm</think>" in prompt


def test_any_forces_a_call_and_one_can_be_the_most(server):
    server.say(f"x{EOS}")
    many = {"type": "any", "disable_parallel_tool_use": False}
    ask(server, tools=TOOLS, tool_choice=many, thinking=OFF)
    opened = BLOCK.split("tool_calls>\n", 1)[1]
    assert accepts(server.engine.jobs[-1].grammar, opened)
    assert not accepts(server.engine.jobs[-1].grammar, "plain")
    for one in ({}, {"disable_parallel_tool_use": True}):
        ask(server, tools=TOOLS, tool_choice={"type": "any"} | one, thinking=OFF)
        assert not accepts(server.engine.jobs[-1].grammar, opened)


def test_counting(server):
    server.say(f"x{EOS}")
    ask(server, tools=TOOLS, system="Be kind.")
    counted = server.anthropic.messages.count_tokens(
        model=MODEL, messages=USER, tools=TOOLS, system="Be kind."
    )
    assert counted.input_tokens == len(server.engine.jobs[-1].ids)


def test_errors_of_its_own_shape(server):
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(server, messages=[])
    assert caught.value.response.json()["type"] == "error"
    assert caught.value.response.json()["error"]["type"] == "invalid_request_error"
    response = server.http.post("/v1/messages", json={"model": MODEL, "messages": USER})
    assert response.status_code == 400 and "max_tokens" in response.json()["error"]["message"]
    response = server.http.post("/v1/messages/nowhere", json={})
    assert (response.status_code, response.json()["type"]) == (404, "error")


def test_a_failure_in_a_stream_is_an_event(server):
    server.say([*server.engine.tokenizer.encode("one two"), 0.5, RuntimeError("boom")])
    with (
        pytest.raises(anthropic.APIStatusError, match="boom"),
        server.anthropic.messages.stream(model=MODEL, max_tokens=9, messages=USER) as stream,
    ):
        stream.get_final_message()
