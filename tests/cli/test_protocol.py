"""`dsv4 encode` and `dsv4 parse` as a user runs them."""

import json

import pytest
from typer.testing import CliRunner

from dsv4.cli import app
from dsv4.protocol import constants as c
from dsv4.protocol import encode_messages
from dsv4.tokenizer import Tokenizer

TALK = [{"role": "user", "content": "hé"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture
def save(tmp_path):
    def save(content, name="given"):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return save


def run(*words, given=""):
    result = CliRunner().invoke(app, [str(word) for word in words], input=given)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes.decode("utf-8")


def fails(*words):
    """The one line that a wrong call leaves on stderr."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2 and not result.stdout, result.output
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    return result.stderr


def test_encode_prints_the_prompt_byte_for_byte(save):
    file = save(TALK)
    assert run("encode", file) == encode_messages(TALK, "thinking")
    assert run("encode", "-", "--effort", "none", given=json.dumps(TALK)) == (
        encode_messages(TALK, "chat")
    )
    most = run("encode", file, "--effort", "max", "--revision", "2026-07")
    assert most == encode_messages(TALK, "thinking", reasoning_effort="max", revision="2026-07")
    assert run("encode", file, "--task", "query").endswith(f"hé{c.TASKS['query']}")
    assert run("encode", file, "--no-bos", "--context", file) == (
        encode_messages(TALK, "thinking", TALK)
    )
    request = run("encode", save({"messages": TALK, "tools": TOOLS}))
    assert request == encode_messages(
        [{"role": "system", "content": "", "tools": TOOLS}, *TALK], "thinking"
    )


def test_encode_prints_segments_and_ids(save):
    file, text = save(TALK), encode_messages(TALK, "thinking")
    segments = json.loads(run("encode", file, "--segments"))
    assert "".join(piece for piece, _ in segments) == text and ["hé", False] in segments
    assert json.loads(run("encode", file, "--ids")) == (
        Tokenizer.deepseek().encode(text, special=True)
    )


def test_parse_prints_the_message(save):
    file = save(f"why{c.END_THINK}Hé{c.EOS}")
    message = {"role": "assistant", "content": "Hé", "reasoning_content": "why", "tool_calls": []}
    assert json.loads(run("parse", file)) == message
    found = json.loads(run("parse", "-", "--chat", "--tolerant", given="Hé"))
    assert found["message"] == message | {"reasoning_content": ""}
    assert found["errors"] == [{"kind": "truncated", "offset": 2, "text": ""}]
    assert found["truncated"]
    call = f'\n\n<{c.DSML}tool_calls>\n<{c.DSML}invoke name="g">\n\n</{c.DSML}invoke>\n'
    file = save(f"{call}</{c.DSML}tool_calls>")
    offered = save({"messages": TALK, "tools": TOOLS}, "request")
    found = json.loads(run("parse", file, "--chat", "--tolerant", "--tools", offered))
    assert [error["kind"] for error in found["errors"]] == ["unknown_tool"]


def test_wrong_input_is_one_line(save, tmp_path):
    nothing = tmp_path / "nothing"
    for command in ("encode", "parse"):
        assert "nothing" in fails(command, nothing)
    assert "messages[1].role = 'boss'" in fails("encode", save([*TALK, {"role": "boss"}]))
    assert "not JSON" in fails("encode", save("{bad"))
    assert "empty" in fails("encode", save(" \n"))
    assert '"messages"' in fails("encode", save("3"))
    assert "'huge'" in fails("encode", save(TALK), "--effort", "huge")
    assert "'sing'" in fails("encode", save(TALK), "--task", "sing")
    assert "half of a character" in fails(
        "encode", save([{"role": "user", "content": "\ud800"}]), "--ids"
    )
    assert "no </think> came" in fails("parse", save("why"))
    assert "list of tools" in fails("parse", save("x"), "--tools", save("3", "tools"))
    nothing.write_bytes(b"\xff")
    assert "not UTF-8" in fails("parse", nothing)
