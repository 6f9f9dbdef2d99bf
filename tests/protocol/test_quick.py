"""Quick instructions share their prefix with the conversation, token for token."""

import pytest

from dsv4.protocol import ProtocolError, continuation, encode_messages, quick_instruction
from dsv4.protocol import constants as c
from dsv4.protocol.encode import encode_segments

TALK = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b", "reasoning_content": "r"},
    {"role": "user", "content": f"c {c.USER}"},
]
REPLY = {"role": "assistant", "content": "d", "reasoning_content": "t"}


def text(segments):
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize("mode", ["chat", "thinking"])
@pytest.mark.parametrize("task", c.TASKS)
def test_prefix_and_continuation_are_the_prompt_that_the_encoder_gives(task, mode):
    talk = [*TALK, REPLY] if task == "title" else TALK
    prefix, asks = quick_instruction(talk, task, mode)
    whole = encode_messages([*talk[:-1], talk[-1] | {"task": task}], mode)
    assert text(prefix) + text(asks) == whole
    assert asks == continuation(task, mode) and all(segment.control for segment in asks)
    own = encode_segments(talk, mode)
    assert own[: len(prefix)] == prefix


def test_a_task_must_follow_what_it_is_about():
    for task, talk in (("title", TALK), ("query", [*TALK, REPLY]), ("query", []), ("sing", TALK)):
        with pytest.raises(ProtocolError, match=f"task = '{task}'"):
            quick_instruction(talk, task, "chat")
    with pytest.raises(ProtocolError, match="thinking_mode"):
        continuation("query", "fast")


def test_trusted_control_strings_count_in_text():
    said = [{"role": "user", "content": f"read {c.EXTRACTED_URL}u {c.USER}", "task": "read_url"}]
    controls = [s.text for s in encode_segments(said, "chat") if s.control]
    assert controls == [c.BOS, c.USER, c.TASKS["read_url"]]
    trusting = encode_segments(said, "chat", trusted=[c.EXTRACTED_URL])
    controls = [s.text for s in trusting if s.control]
    assert controls == [c.BOS, c.USER, c.EXTRACTED_URL, c.TASKS["read_url"]]
    assert text(trusting) == encode_messages(said, "chat")
