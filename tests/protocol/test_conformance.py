"""The encoder against an independent one: vLLM's, where its package or unpacked wheel is found.

vLLM's encoder has the prefixes of revision 2026-07, calls reasoning `reasoning`, opens the reply
after a system message too, and miscounts dropped developer messages of a context: such inputs are
left out. DSV4_FUZZ sets how many conversations are drawn.
"""

import copy
import importlib.util
import os
import random
from pathlib import Path

import pytest

from dsv4.protocol import encode_messages


def load():
    found = importlib.util.find_spec("vllm")
    for folder in found.submodule_search_locations if found else ():
        for file in Path(folder).rglob("deepseek_v4_encoding.py"):
            spec = importlib.util.spec_from_file_location("encoding", file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None


PEER = load()
COUNT = int(os.environ.get("DSV4_FUZZ", "2000"))
TOOLS = [{"type": "function", "function": {"name": "x", "description": "é"}}]
TEXTS = ("a", "b\n\nc", "é<｜User｜>", "", "<tool_result>", '{"a": 1}')
GIVEN = (
    "{}",
    '{"a": "x", "b": [1, {"q": null}], "é": 1.5}',
    '{"k": "v"}',
    {"k": "v", "z": {"a": 1}},
)
IDS = (["a"], ["a", "b"], ["b", "a", "c"], ["", ""], ["a", ""])
ROLES = ("system", "user", "user", "assistant", "assistant", "tool", "tool", "developer")
PARTS = [{"type": "text", "text": "p"}, {"type": "image_url"}]


def draw(rng):
    role = rng.choice([*ROLES, "latest_reminder"])
    message = {"role": role, "content": "dev" if role == "developer" else rng.choice(TEXTS)}
    if role == "tool":
        message |= {"tool_call_id": rng.choice("abcz")} if rng.random() < 0.8 else {}
        message |= {"content": PARTS[: rng.randint(1, 2)]} if rng.random() < 0.2 else {}
    if role == "assistant":
        message |= {"reasoning_content": rng.choice(TEXTS)} if rng.random() < 0.6 else {}
        message |= {"tool_calls": calls(rng)} if rng.random() < 0.4 else {}
        message |= {"wo_eos": True} if rng.random() < 0.1 else {}
        message |= {"content": None} if rng.random() < 0.2 else {}
    message |= {"tools": TOOLS} if rng.random() < 0.06 else {}
    message |= {"response_format": {"s": 1}} if rng.random() < 0.06 else {}
    if rng.random() < 0.08:
        message["task"] = rng.choice(["action", "query", "title", "domain", "bogus"])
    return message


def calls(rng):
    out = []
    for call_id in rng.choice(IDS):
        call = {"type": "function", "function": {"name": "f", "arguments": rng.choice(GIVEN)}}
        out.append(call | ({"id": call_id} if call_id else {}))
    return out


def comparable(messages, context, mode):
    if context and mode == "thinking" and any(m["role"] == "developer" for m in context):
        return False
    both = [*(context or []), *messages]
    after = [*(m["role"] for m in both[1:]), "assistant"]
    ends = ("assistant", "latest_reminder", "developer")
    return not any(
        m["role"] == "system" and role in ends for m, role in zip(both, after, strict=False)
    )


def outcome(encode, *given, **options):
    try:
        return encode(*copy.deepcopy(given), **options)
    except ValueError:
        return "refused"


def compare(rng):
    """Whether one drawn conversation was compared."""
    messages = [draw(rng) for _ in range(rng.randint(0, 6))]
    context = [draw(rng) for _ in range(rng.randint(1, 4))] if rng.random() < 0.2 else None
    mode = rng.choice(["chat", "thinking"])
    options = {
        "drop_thinking": rng.random() < 0.8,
        "add_default_bos_token": rng.random() < 0.8,
        "reasoning_effort": rng.choice([None, "high", "max", "low"]),
    }
    if not comparable(messages, context, mode):
        return False
    for message in [*messages, *(context or [])]:
        if "reasoning_content" in message:
            message["reasoning"] = message["reasoning_content"]
    ours = outcome(encode_messages, messages, mode, context, revision="2026-07", **options)
    assert ours == outcome(PEER.encode_messages, messages, mode, context, **options)
    return True


@pytest.mark.skipif(PEER is None, reason="vLLM's encoder is not installed")
def test_drawn_conversations_are_encoded_alike():
    rng = random.Random(7)
    compared = sum(compare(rng) for _ in range(COUNT))
    print(f"{compared} of {COUNT} conversations compared")
    assert compared > COUNT // 2
