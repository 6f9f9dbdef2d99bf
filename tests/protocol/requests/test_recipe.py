"""Requests against DeepSeek's own library, over drawn requests of the three APIs.

Compared are the prompt to the byte, sampling, constraint, thinking and effort; or, of a request
that is refused, that both refuse it, and the text where the API's contract gives one. What dsv4
does otherwise is listed, with the reasons, in docs/protocol.md under "Where dsv4 departs"; here
`as_dsv4` and `departs` stand for it. DSV4_REQUESTS sets how many of each API are drawn.
"""

import json
import os
import random
import re
from collections import Counter

import pytest

from dsv4.protocol import (
    ProtocolError,
    RequestOptions,
    from_anthropic,
    from_openai,
    from_responses,
)
from dsv4.protocol import constants as c

from . import draws, draws_responses

recipe = pytest.importorskip("deepseek_recipe")

COUNT = int(os.environ.get("DSV4_REQUESTS", "1000"))
APIS = {
    "chat": (draws.chat, from_openai, recipe.ChatCompletionRequest),
    "messages": (draws.anthropic, from_anthropic, recipe.MessagesRequest),
    "responses": (draws_responses.responses, from_responses, recipe.ResponsesRequest),
}
JULY = RequestOptions(revision="2026-07")
GIVEN = re.compile(  # the texts that the contract gives
    r"Invalid (temperature|top_p|max_tokens|n|seed|top_logprobs|\w+_penalty) |"
    r"Invalid '(tools|stop)|"
    r"Tool names must|Cannot use strict|response_format|Invalid value for|Thinking mode does|"
    r"Stop string|Prompt must|Response input|stream_options|Invalid assistant|Function call should|"
    r"tools\[|Either input|Server tools|Invalid schema for function '\w+': schema"
)


def theirs(kind, body):
    """What the library makes of a request, or the text of its refusal."""
    try:
        request = kind(json.dumps({"model": "DeepSeek-V4-Pro", **body}))
        request = request.convert(recipe.ConversionOptions())
    except recipe.ConversionError as error:
        return json.loads(error.body)["error"]["message"]
    except ValueError as error:
        return str(error)
    talk, use, read = request.conversation, request.inference_options, request.parsing_options
    stage, held = read.thinking_initial_stage, use.output_constraint
    return {
        "prompt": as_dsv4(recipe.DeepseekV4Encoding().render_conversation(talk).prompt),
        "thinking": talk.thinking_mode,
        "temperature": pytest.approx(use.temperature),
        "top_p": pytest.approx(use.top_p),
        "seed, limit": (use.seed, use.max_tokens),
        "logprobs": (use.logprobs, use.top_logprobs),
        "constraint": held and (held.kind, value(held.kind, held.schema)),
        "stream": request.stream,
        "stop": list(read.stop_sequences),
        "calls": (read.starts_in_tool_calls, read.parse_tool_calls),
        "reasons": stage is not None and stage.starts_in_reasoning(),
    }


def ours(read, body):
    """What dsv4 makes of it, or its error."""
    try:
        request = read(body, JULY)
    except ProtocolError as error:
        return error
    held, asked = request.constraint, request.asked
    return {
        "prompt": request.prompt(),
        "thinking": request.thinking_mode == "thinking",
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed, limit": (asked.seed, asked.max_tokens),
        "logprobs": (asked.logprobs, asked.top_logprobs),
        "constraint": held and (held.kind, value(held.kind, held.text())),
        "stream": request.stream,
        "stop": list(request.stop),
        "calls": (request.starts == "calls", bool(request.tools)),
        "reasons": request.starts == "reasoning",
    }


def value(kind, text):
    """A constraint's value: numbers may be spelled otherwise."""
    return text if kind == "regex" or not text else json.loads(text)


def as_dsv4(prompt):
    """Their prompt with the empty line that the release has in a call without arguments."""
    return re.sub(rf'(<{c.DSML}invoke name="[^"]*">\n)(</)', r"\1\n\2", prompt)


def departs(body, refusal):
    """Whether dsv4 does otherwise on purpose: accepts it, or orders calls as they were written."""
    if isinstance(refusal, str):
        return "`anyOf`: missing field `type`" in refusal or any(
            message.get("role") == "tool" and "content" not in message
            for message in body.get("messages", ())
            if isinstance(message, dict)
        )
    calls = r'"(?:tool_use|function_call)", "(?:call_id|id)": "(\w+)"'
    ids = re.findall(calls, json.dumps(body))
    return ids != sorted(ids)


@pytest.mark.parametrize("name", APIS)
def test_requests_are_read_as_by_deepseek(name):
    draw, read, kind = APIS[name]
    rng, seen = random.Random(f"{name} {COUNT}"), Counter()
    for _ in range(COUNT):
        body = json.loads(json.dumps(draw(rng)))
        mine, other = ours(read, body), theirs(kind, body)
        if mine == other:
            seen["alike"] += 1
        elif isinstance(mine, ProtocolError) and isinstance(other, str):
            first = mine.path.endswith(".prefix")  # of two faults dsv4 names the place of a prefix
            assert mine.reason == other or first or not GIVEN.match(other), (body, mine, other)
            assert mine.path or "tool" in mine.reason, body
            seen["refused"] += 1
        else:
            assert departs(body, other), (body, mine, other)
            seen["departures"] += 1
    print(name, dict(seen))
    assert seen["alike"] > COUNT * 0.4 and seen["refused"] > COUNT * 0.05
    assert seen["departures"] < COUNT * 0.02
