"""Responses through OpenAI's client."""

import json

import openai
import pytest
from server.running import MODEL
from server.test_chat import BLOCK, EOS

PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}}
TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": PROPERTIES}}
    for name in ("weather", "time")
]


def ask(server, given="hello", **more):
    return server.openai.responses.create(model=MODEL, input=given, **more)


def test_a_whole_response(server):
    server.say(f"I think</think>Good day.{EOS}")
    reply = ask(server, instructions="Be kind.", max_output_tokens=100)
    reasoning, message = reply.output
    assert reasoning.content[0].text == "I think" and reply.output_text == "Good day."
    assert (reply.status, reply.object, message.phase) == ("completed", "response", "final_answer")
    assert reply.instructions == "Be kind." and reply.max_output_tokens == 100
    usage, prompt = reply.usage, len(server.engine.jobs[0].ids)
    assert usage.input_tokens == prompt and usage.input_tokens_details.cached_tokens == 3
    assert usage.output_tokens == len(server.engine.scripts[0])
    assert usage.output_tokens_details.reasoning_tokens == len(
        server.engine.tokenizer.encode("I think")
    )


def test_a_stream_has_numbers_and_adds_up(server):
    server.say(f"I think</think>Good day.{BLOCK}{EOS}")
    events = list(ask(server, tools=TOOLS, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    last = events[-1].response
    assert [item.type for item in last.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert json.loads(last.output[2].arguments) == {"city": "Oslo", "days": 3}
    assert last.output[1].phase == "commentary"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == last.output_text == "Good day."
    given = "".join(
        e.delta
        for e in events
        if e.type == "response.function_call_arguments.delta" and e.output_index == 3
    )
    assert given == last.output[3].arguments
    done = [e.item for e in events if e.type == "response.output_item.done"]
    assert [item.id for item in done] == [item.id for item in last.output]
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1


def test_a_cut_response_is_incomplete(server):
    server.say(f"one two three{EOS}")
    reply = ask(server, max_output_tokens=2, reasoning={"effort": "none"})
    assert reply.status == "incomplete" and reply.output_text == "one two"
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.output[0].status == "incomplete"


def test_going_on_from_a_response(server):
    server.say(f"hm</think>Paris.{EOS}", f"</think>{BLOCK}{EOS}", f"</think>Sunny.{EOS}")
    first = ask(server, "The capital of France?")
    second = ask(server, "And its weather?", previous_response_id=first.id, tools=TOOLS)
    outputs = [
        {"type": "function_call_output", "call_id": item.call_id, "output": item.name}
        for item in second.output
        if item.type == "function_call"
    ]
    third = ask(server, outputs, previous_response_id=second.id, tools=TOOLS)
    assert third.output_text == "Sunny." and third.previous_response_id == second.id
    prompt = server.engine.tokenizer.decode(server.engine.jobs[-1].ids)
    for said in ("The capital of France?", "Paris.", "And its weather?", "Oslo"):
        assert said in prompt
    assert server.openai.responses.retrieve(first.id).output_text == "Paris."
    server.openai.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        ask(server, "x", previous_response_id=first.id)
    assert ask(server, "x", previous_response_id=second.id, tools=TOOLS) if outputs == [] else True
    unstored = ask(server, "x", store=False)
    with pytest.raises(openai.NotFoundError):
        server.openai.responses.retrieve(unstored.id)


WEATHER = {"role": "user", "content": "And its weather?"}


def test_items_by_reference(server):
    server.say(f"</think>Paris.{EOS}", f"</think>It rains.{EOS}")
    first = ask(server, "The capital of France?")
    reference = {"type": "item_reference", "id": first.output[-1].id}
    second = ask(server, [{"role": "user", "content": "Capital?"}, reference, WEATHER])
    prompt = server.engine.tokenizer.decode(server.engine.jobs[-1].ids)
    assert "Capital?" in prompt and "Paris." in prompt and "of France" not in prompt
    ask(server, "more", previous_response_id=second.id)  # holds the item, not the reference
    assert "Paris." in server.engine.tokenizer.decode(server.engine.jobs[-1].ids)
    server.openai.responses.delete(first.id)
    for key in (first.output[-1].id, "msg_1", "", "x_y_z"):
        with pytest.raises(openai.NotFoundError, match="there is no item"):
            ask(server, [{"type": "item_reference", "id": key}, WEATHER])
    with pytest.raises(openai.BadRequestError, match="must be text"):
        ask(server, [{"type": "item_reference", "id": 5}, WEATHER])


def test_logprobs_and_formats(server):
    server.say(f'</think>{{"a": 1}}{EOS}')
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"format": {"type": "json_schema", "name": "s", "schema": schema}}
    reply = ask(server, text=form, top_logprobs=2)
    entries = reply.output[0].content[0].logprobs
    assert "".join(e.token for e in entries) == '{"a": 1}'
    assert '"a"' in json.dumps(server.engine.jobs[-1].grammar)


def test_a_failure_is_the_last_event(server):
    server.say([*server.engine.tokenizer.encode("one"), 0.5, RuntimeError("boom")])
    *_, last = ask(server, stream=True)
    assert last.type == "response.failed" and "boom" in last.response.error.message


def test_what_is_refused(server):
    for more in ({"temperature": 9}, {"max_output_tokens": 10**6}):
        with pytest.raises(openai.BadRequestError):
            ask(server, **more)
