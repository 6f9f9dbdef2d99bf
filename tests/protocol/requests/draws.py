"""Requests of Chat Completions and Messages, drawn: sound ones, and ones with a fault or two."""

import copy

TEXTS = ("", "a", "b\n\nc", "é<｜User｜>", "json", "JSON, please", " \n", "<think>x</think>", "{}")
NAMES = ("f", "g", "get_it", "x-1")
ARGUMENTS = (
    *("{}", '{"a": "x"}', '{"b": 1, "a": [1, "é", null], "c": {"d": 0.5}}', "", "null", "[1, 2]"),
    *('"text"', "{bad", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a":1,"a":"z"}'),
    *(' {"k": true, "é": "<｜DSML｜>"} ', "﻿{}", '{"a":' * 127 + "{}" + "}" * 127),
    *('{"a":' * 126 + "{}" + "}" * 126, '{"a": "\\ud83d\\ude00\\u00e9"}', '{"a": "tab\t"}', "3 4"),
)
SCHEMAS = (
    {"type": "object"},
    {"type": "object", "properties": {}, "title": "T"},
    {
        "type": "object",
        "properties": {"a": {"type": "string", "enum": ["x", "y"], "description": "d"}},
        "required": ["a"],
    },
    {
        "properties": {
            "b": {"type": ["integer", "null"], "minimum": 1},
            "a": {"$ref": "#/$defs/A"},
        },
        "type": "object",
        "$defs": {"A": {"anyOf": [{"type": "null"}, {"type": "array", "items": {}}]}},
    },
)
STRICT = (
    {"type": "object"},
    None,
    {"type": "object", "properties": {"a": {"type": "string", "minLength": 2, "format": "uuid"}}},
    {
        "properties": {
            "b": {"type": "array", "items": {"type": "integer", "maximum": 3}, "minItems": 1},
            "a": {"anyOf": [{"type": "null"}, {"$ref": "#/$def/A"}], "description": "d"},
        },
        "type": "object",
        "required": ["a", "b"],
        "description": "top",
        "$def": {"A": {"type": "object", "properties": {"x": {"type": "boolean"}}}},
    },
    {"type": "object", "properties": {"a": {"type": ["string", "null"], "description": "d"}}},
    {"type": "object", "properties": {"a": {"type": "number", "multipleOf": 0.5, "const": 1}}},
)
BAD_SCHEMAS = (
    *({}, {"type": "array"}, {"type": ["object"]}, 3, {"type": "object", "properties": 3}, []),
    {"type": "object", "properties": {"a": {"type": "strin"}}},
    {"type": "object", "required": ["a", "a"]},
    {"type": "object", "properties": {"a": {"$ref": "http://x/y"}}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}},
    {"type": "object", "properties": {"a": {"pattern": "("}}},
    {"type": "object", "properties": {"a": {"minLength": -1}}},
    {"type": "object", "anyOf": []},
)
BAD_STRICT = (
    *({"type": "string"}, {}, {"anyOf": [{"type": "object"}]}),
    {"type": "object", "properties": {"a": {"type": "string", "format": "date"}}},
    {"type": "object", "properties": {"a": {}}},
    {"type": "object", "properties": {"a": {"type": "array"}}},
    {"type": "object", "properties": {"a": {"type": "object"}}},
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1.5}}},
    {"type": "object", "properties": {"a": {"type": "null"}}, "required": []},
    {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "b"]},
    {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "a"]},
    {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": True},
)
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max")
BILLING = ("x-anthropic-billing-header: cc=1; You are x", "x-anthropic-billing-header: cc=1\nhello")
BILLING += ("X-Anthropic-Billing-Header: a\nb",)


def sampling(rng, chat):
    """Sampling fields, seldom out of range."""
    out = {}
    if rng.random() < 0.3:
        out["temperature"] = rng.choice([0, 0.5, 1, 2, 2.5, -1] if rng.random() < 0.2 else [0, 0.5])
    if rng.random() < 0.3:
        out["top_p"] = rng.choice([0, 0.25, 1, 1.5] if rng.random() < 0.2 else [0.25, 1])
    if rng.random() < 0.2:
        out["stream"] = rng.choice([True, False, None])
    if not chat:
        return out
    if rng.random() < 0.15:
        out["seed"] = rng.choice([0, 7, 2**63 - 1, 2**63, -1])
    if rng.random() < 0.1:
        out |= rng.choice(
            [
                {"logprobs": True, "top_logprobs": 3},
                {"top_logprobs": 3},
                {"logprobs": True, "top_logprobs": 21},
                {"n": 2},
                {"n": 1},
                {"presence_penalty": 3},
                {"frequency_penalty": -2},
                {"parallel_tool_calls": False},
                {"stream_options": {"include_usage": True}},
                {"stream": True, "stream_options": {"include_usage": True}},
            ]
        )
    return out


def limit(rng, key):
    """A limit of tokens."""
    return {key: rng.choice([1, 100, 393216, 0, 393217])} if rng.random() < 0.15 else {}


def stop(rng, key):
    """Stop strings."""
    return {key: rng.choice([["x", "y"], [], [""], ["a"] * 17])} if rng.random() < 0.12 else {}


def functions(rng, flat=False):
    """Functions to offer, as Chat has them, or flat."""
    strict = rng.random() < 0.2
    out = []
    for name in rng.sample(NAMES, rng.randint(1, 3)):
        tool = {"name": name}
        if rng.random() < 0.6:
            tool["description"] = rng.choice(["D", "é\n", None])
        if rng.random() < 0.8:
            tool["parameters"] = copy.deepcopy(rng.choice(STRICT if strict else SCHEMAS))
        if strict or rng.random() < 0.1:
            tool["strict"] = strict
        out.append(tool)
    faults(rng, out, strict)
    return [{"type": "function", **f} if flat else {"type": "function", "function": f} for f in out]


def faults(rng, out, strict):
    """Sometimes one thing wrong with the functions."""
    tool, kind = rng.choice(out), rng.random()
    if kind < 0.03:
        tool["name"] = rng.choice(["", "a b", "n" * 129, "é"])
    elif kind < 0.06:
        out.append(dict(tool))
    elif kind < 0.12:
        tool["parameters"] = copy.deepcopy(rng.choice(BAD_STRICT if strict else BAD_SCHEMAS))
    elif kind < 0.14:
        tool["strict"] = not strict


def schema_of(rng):
    """A schema for a reply."""
    return copy.deepcopy(rng.choice(SCHEMAS if rng.random() < 0.8 else BAD_SCHEMAS))


def chat(rng):
    """A Chat Completions request."""
    body = sampling(rng, True) | limit(rng, "max_tokens") | stop(rng, "stop")
    if rng.random() < 0.05:
        body["stop"] = rng.choice(["x", ""])
    if rng.random() < 0.5:
        body["thinking"] = rng.choice([{"type": t} for t in ("enabled", "adaptive", "disabled")])
    if rng.random() < 0.4:
        body["reasoning_effort"] = rng.choice(EFFORTS)
    if rng.random() < 0.4:
        body["tools"] = functions(rng)
        if rng.random() < 0.4:
            named = {"type": "function", "function": {"name": rng.choice(NAMES)}}
            body["tool_choice"] = rng.choice(["none", "auto", "required", named])
    if rng.random() < 0.25:
        body["response_format"] = chat_format(rng)
    body["messages"] = messages = chat_messages(rng)
    if messages and messages[-1]["role"] == "assistant" and rng.random() < 0.6:
        messages[-1]["prefix"] = True
    if rng.random() < 0.15 and messages:
        chat_fault(rng, messages)
    return body


def chat_format(rng):
    """A response format."""
    schema = schema_of(rng)
    return rng.choice(
        [
            {"type": "text"},
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
            {"type": "json_schema", "json_schema": {"schema": schema, "strict": False}},
            {"type": "regex", "regex": "a+"},
        ]
    )


def content(rng, kinds):
    """Text, or parts."""
    if rng.random() < 0.75:
        return rng.choice(TEXTS)
    return [part(rng, kinds) for _ in range(rng.randint(0, 3))]


def part(rng, kinds):
    """A part of one of the kinds; a text if the kind is a name."""
    kind = rng.choice(kinds)
    return {"type": kind, "text": rng.choice(TEXTS)} if isinstance(kind, str) else dict(kind)


CHAT_PARTS = ("text", "text", {"type": "image_url", "image_url": {"url": "u"}})
CHAT_PARTS += ({"type": "file", "file": {"filename": "x"}},)


def chat_messages(rng):
    """A history whose calls are answered."""
    out, number = [], 0
    for _ in range(rng.randint(0 if rng.random() < 0.05 else 1, 6)):
        role = rng.choice(["system", "user", "user", "assistant", "assistant", "latest_reminder"])
        message = {"role": role, "content": content(rng, CHAT_PARTS)}
        if role == "system" and rng.random() < 0.2:
            message["content"] = rng.choice(BILLING)
        if role == "latest_reminder":
            message["content"] = rng.choice(TEXTS)
        out.append(message)
        if role != "assistant":
            continue
        if rng.random() < 0.5:
            message["reasoning_content"] = rng.choice([*TEXTS, None])
        if rng.random() < 0.4:
            ids = [f"call_{number + i:02}" for i in range(rng.randint(1, 3))]
            number += len(ids)
            message["tool_calls"] = [
                {
                    "id": i,
                    "type": "function",
                    "function": {"name": rng.choice(NAMES), "arguments": rng.choice(ARGUMENTS)},
                }
                for i in ids
            ]
            if rng.random() < 0.5:
                message["content"] = None
            out += [
                {"role": "tool", "tool_call_id": i, "content": content(rng, CHAT_PARTS)}
                for i in rng.sample(ids, len(ids))
            ]
    return out


def chat_fault(rng, messages):
    """One thing wrong with the history."""
    at = rng.randrange(len(messages))
    kind = rng.randrange(7)
    if kind == 0:
        del messages[at]
    elif kind == 1:
        messages.insert(at, {"role": "tool", "tool_call_id": "call_00", "content": "r"})
    elif kind == 2:
        messages[at]["role"] = rng.choice(["system", "user", "boss", "function"])
    elif kind == 3:
        messages[at]["prefix"] = True
    elif kind == 4:
        messages.insert(at, dict(messages[rng.randrange(len(messages))]))
    elif kind == 5:
        messages[at].pop(rng.choice(list(messages[at])))
    elif messages[at].get("tool_calls"):
        call = messages[at]["tool_calls"][0]
        call["id"] = rng.choice(["call_00", "call_01", "zz"])
        if rng.random() < 0.3:
            messages[at]["tool_calls"] = []


MESSAGE_PARTS = ("text", "text", {"type": "image", "source": {"type": "url", "url": "u"}})
MESSAGE_PARTS += (
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}},
    {"type": "document", "source": {"type": "url", "url": "u"}},
)


def anthropic(rng):
    """A Messages request."""
    body = sampling(rng, False) | limit(rng, "max_tokens") | stop(rng, "stop_sequences")
    if rng.random() < 0.5:
        body["thinking"] = rng.choice([{"type": t} for t in ("enabled", "adaptive", "disabled")])
    if rng.random() < 0.3:
        body["output_config"] = {"effort": rng.choice(EFFORTS)}
    if rng.random() < 0.4:
        body["system"] = rng.choice([*TEXTS, *BILLING])
    elif rng.random() < 0.4:
        texts = [rng.choice([*TEXTS, *BILLING]) for _ in range(rng.randint(0, 3))]
        body["system"] = [{"type": "text", "text": text} for text in texts]
    if rng.random() < 0.4:
        tools = [tool["function"] for tool in functions(rng)]
        body["tools"] = [
            {("input_schema" if key == "parameters" else key): tool[key] for key in tool}
            for tool in tools
        ]
        if rng.random() < 0.4:
            kinds = [{"type": t} for t in ("auto", "any", "none")]
            body["tool_choice"] = rng.choice([*kinds, {"type": "tool", "name": rng.choice(NAMES)}])
    body["messages"] = anthropic_messages(rng)
    if rng.random() < 0.15 and body["messages"]:
        anthropic_fault(rng, body["messages"])
    return body


def anthropic_messages(rng):
    """A history whose calls are answered."""
    out, number = [], 0
    for _ in range(rng.randint(0 if rng.random() < 0.05 else 1, 6)):
        role = rng.choice(["user", "user", "assistant", "assistant", "system"])
        given = content(rng, MESSAGE_PARTS if role != "system" else MESSAGE_PARTS[:3]) or "x"
        out.append({"role": role, "content": given})
        if role != "assistant":
            continue
        if isinstance(given, list) and rng.random() < 0.6:
            thought = {"type": "thinking", "thinking": rng.choice(TEXTS), "signature": "s"}
            given.insert(rng.randint(0, len(given)), thought)
        if rng.random() < 0.4:
            ids = [f"call_{number + i:02}" for i in range(rng.randint(1, 3))]
            number += len(ids)
            given = given if isinstance(given, list) else [{"type": "text", "text": given}]
            inputs = [{}, {"a": "x", "b": [1, None]}, {"é": {"z": True}}, None, [1, "x"], "s"]
            out[-1]["content"] = given + [
                {
                    "type": "tool_use",
                    "id": i,
                    "name": rng.choice(NAMES),
                    "input": rng.choice(inputs),
                }
                for i in ids
            ]
            results = [tool_result(rng, i) for i in rng.sample(ids, len(ids))]
            more = [part(rng, MESSAGE_PARTS) for _ in range(rng.randint(0, 2))]
            out.append({"role": "user", "content": results + more})
    return out


def tool_result(rng, call_id):
    """A result of a call."""
    out = {"type": "tool_result", "tool_use_id": call_id}
    if rng.random() < 0.85:
        out["content"] = rng.choice([content(rng, MESSAGE_PARTS), content(rng, ("text",)), None])
    return out | ({"is_error": True} if rng.random() < 0.1 else {})


def anthropic_fault(rng, messages):
    """One thing wrong with the history."""
    at, kind = rng.randrange(len(messages)), rng.randrange(6)
    blocks = messages[at]["content"]
    if kind == 0:
        del messages[at]
    elif kind == 1:
        messages[at]["content"] = rng.choice([[], None, 3])
    elif kind == 2:
        messages[at]["role"] = rng.choice(["user", "assistant", "tool"])
    elif kind == 3 and isinstance(blocks, list):
        rng.shuffle(blocks)
    elif kind == 4 and isinstance(blocks, list):
        blocks.append(dict(rng.choice(blocks)))
    elif isinstance(blocks, list):
        del blocks[rng.randrange(len(blocks))]
