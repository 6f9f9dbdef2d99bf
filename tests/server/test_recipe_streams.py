"""Events and whole responses as DeepSeek's own library writes them, over drawn replies.

Compared once neighbours of one kind are joined and ids and times are named alike. The departures,
with their reasons, are in docs/protocol.md. DSV4_FUZZ=5000 draws that many.
"""

import asyncio
import itertools
import json
import os
import random
import re

import pytest
from protocol.test_recipe_replies import pieces_of, reply

from dsv4.engine.request import Finished, Token, Usage
from dsv4.protocol.requests import RequestOptions, from_anthropic, from_openai, from_responses
from dsv4.server.chat import ChatWriter
from dsv4.server.exchange import Exchange
from dsv4.server.messages import MessagesWriter
from dsv4.server.reply import Inbox, Reply, marks_of
from dsv4.server.responses import ResponsesWriter, given_of

recipe = pytest.importorskip("deepseek_recipe")

DRAWS = int(os.environ.get("DSV4_FUZZ", "60"))
MODEL = "DeepSeek-V4-Pro"
NAMES = ("f0", "f1", "f2")
CHAT_TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in NAMES
]
MESSAGES_TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in NAMES]
RESPONSES_TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object"}} for name in NAMES
]
USER = [{"role": "user", "content": "q"}]


def body_of(api, thinking):
    if api == "responses":
        effort = {"effort": "high" if thinking else "none"}
        return {"model": MODEL, "input": "q", "reasoning": effort, "tools": RESPONSES_TOOLS}
    kind = {"type": "enabled" if thinking else "disabled"}
    body = {"model": MODEL, "messages": USER, "thinking": kind, "stream": True}
    if api == "chat":
        return body | {"tools": CHAT_TOOLS}
    return body | {"tools": MESSAGES_TOOLS, "max_tokens": 1000}


THEIRS = {
    "chat": recipe.ChatCompletionRequest,
    "messages": recipe.MessagesRequest,
    "responses": recipe.ResponsesRequest,
}
RESPONSES = {
    "chat": recipe.ChatCompletionResponse,
    "messages": recipe.MessagesResponse,
    "responses": recipe.ResponsesResponse,
}
OURS = {"chat": from_openai, "messages": from_anthropic, "responses": from_responses}


def theirs(api, pieces, thinking, finish):
    kind, body = THEIRS[api], body_of(api, thinking)
    request = kind(body)
    echo = [request.echo()] if api == "responses" else []
    converted = request.convert(recipe.ConversionOptions())
    stage = recipe.ThinkingInitialStage.ReasoningStart if thinking else None
    generator = kind.chunk_generator(converted, "ID", MODEL)
    if echo:
        generator = generator.with_echo(*echo) if hasattr(generator, "with_echo") else generator
    options = recipe.ParsingOptions(thinking_initial_stage=stage)
    processor = recipe.StreamProcessor(generator, options)
    end = recipe.InferenceChunk.finish(getattr(recipe.InferenceFinishReason, finish))
    chunks = processor.push(recipe.InferenceChunk.ready())
    response = RESPONSES[api]("ID", MODEL, 0, 0, 0)
    for update in [*(recipe.InferenceChunk.text(piece, 1) for piece in pieces), end]:
        if not processor.finished:
            chunks += processor.push(update)
    chunks += processor.finish()
    events = [json.loads(chunk.to_json()) for chunk in chunks]
    for chunk in chunks:
        response.accumulate(chunk)
    return events, json.loads(response.to_json())


def ours(api, whole, thinking, finish, tokenizer, rng):
    async def write():
        body = body_of(api, thinking)
        request = OURS[api](body, RequestOptions())
        inbox = Inbox()
        exchange = Exchange("ID", MODEL, tokenizer, inbox)
        listener = Reply(
            request.parser(), tokenizer, inbox, marks=marks_of(True), thinking=thinking
        )
        exchange.replies.append(listener)
        writers = {"chat": ChatWriter, "messages": MessagesWriter}
        if api == "responses":
            writer = ResponsesWriter(exchange, request, given_of(body, request, False))
        else:
            writer = writers[api](exchange, request)
        usage = Usage(prompt=0)
        listener.prefilled(usage)
        events = list(writer.start())
        ids = tokenizer.encode(whole, special=True)
        while ids:
            count = rng.randrange(1, 6)
            listener.tokens([Token(i) for i in ids[:count]])
            ids = ids[count:]
            events += writer.add(0, *listener.take())
        listener.finished(Finished("stop" if finish == "Stop" else "length", usage))
        events += writer.add(0, *listener.take())
        events += writer.finish()
        return [json.loads(json.dumps(data)) for _, data in events], writer.whole()

    return asyncio.run(write())


NOT_COMPARED = {"created", "created_at", "completed_at", "usage", "dsv4", "sequence_number"}


def plain(value):
    """Without times and counts, ids of calls named alike."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if key not in NOT_COMPARED}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, str):
        return re.sub(r"call_(\d\d)_(ET_)?[A-Za-z0-9]{20}\d{4}", r"call_\1_\2", value)
    return value


def text_place(event):
    """Where the text of a delta event is, and what tells events that can be joined."""
    if "choices" in event:
        delta = event["choices"][0]["delta"]
        if event["choices"][0]["finish_reason"]:
            return None
        if delta.get("role"):
            return None
        if "tool_calls" in delta:
            call = delta["tool_calls"][0]
            return None if "id" in call else (call["function"], "arguments")
        key = "content" if delta.get("reasoning_content") is None else "reasoning_content"
        return delta, key
    delta = event.get("delta")
    if isinstance(delta, dict) and event["type"] == "content_block_delta":
        keys = {"thinking_delta": "thinking", "text_delta": "text"}
        keys |= {"input_json_delta": "partial_json", "signature_delta": None}
        key = keys[delta["type"]]
        return (delta, key) if key else None
    if isinstance(delta, str):
        return event, "delta"
    return None


def joined(events):
    """Events, and runs of deltas of one kind as [event without its text, text]."""
    out = []
    for event in map(plain, events):
        place = text_place(event)
        if place is None:
            out.append(event)
            continue
        holder, key = place
        text, holder[key] = holder[key], ""
        if not text:
            continue
        if out and isinstance(out[-1], list) and out[-1][0] == event:
            out[-1][1] += text
        else:
            out.append([event, text])
    return out


@pytest.mark.parametrize("api", THEIRS)
def test_streams_are_written_alike(api):
    from dsv4.tokenizer import Tokenizer

    tokenizer, rng = Tokenizer.deepseek(), random.Random(5)
    compared = 0
    for number in range(DRAWS):
        thinking = number % 2 == 0
        whole = reply(rng, thinking)
        mine, my_whole = ours(api, whole, thinking, "Stop", tokenizer, rng)
        other, their_whole = theirs(api, pieces_of(rng, whole), thinking, "Stop")
        other = joined(other)
        if any(isinstance(run, list) and run[1].endswith("\n") for run in other):
            continue  # after a `<` it leaves a line end of the layout in the content
        for a, b in itertools.zip_longest(joined(mine), other):
            assert a == b, whole
        assert plain(my_whole) == plain(their_whole), whole
        compared += 1
    assert compared > DRAWS * 0.8
