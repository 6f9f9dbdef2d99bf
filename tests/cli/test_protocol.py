"""`dsv4 encode` and `dsv4 parse` as a user runs them."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from dsv4.cli import app
from dsv4.cli.loading import packaged
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
    request = run("encode", save({"messages": TALK, "tools": TOOLS}))
    offered = {"name": "f", "description": "", "parameters": {}}
    system = {"role": "system", "content": "", "tools": [{"function": offered}]}
    assert request == encode_messages([system, *TALK], "thinking")


def test_encode_follows_the_checkpoint_that_is_named(save, tmp_path):
    file, max_effort = save(TALK), ("--effort", "max")
    april, july = (
        encode_messages(TALK, "thinking", reasoning_effort="max", revision=revision)
        for revision in ("2026-04", "2026-07")
    )
    assert april != july
    for name, prompt in (("nano", april), ("flash", april), ("flash-0731", july)):
        assert run("encode", file, *max_effort, "--checkpoint", name) == prompt
    assert run("encode", file, *max_effort) == april
    flag = ("--checkpoint", "pro-0813", "--revision", "2026-04")
    assert run("encode", file, *max_effort, *flag) == april  # a flag wins
    folder = tmp_path / "of july"
    shutil.copytree(packaged(), folder)
    (folder / "encoding").mkdir()
    encoder = folder / "encoding" / "encoding_dsv4.py"
    encoder.write_text('DEFAULT_REASONING_EFFORT = "low"')
    named = ("--checkpoint", folder)
    assert run("encode", file, *max_effort, *named) == july
    ids = json.loads(run("encode", file, "--ids", *named))
    text = encode_messages(TALK, "thinking", reasoning_effort="high", revision="2026-07")
    assert ids == Tokenizer.load(folder).encode(text, special=True)
    assert json.loads(run("encode", file, "--ids", "--checkpoint", "flash-0731")) == (
        Tokenizer.deepseek().encode(text, special=True)
    )
    encoder.write_text("x = (")
    assert "no Python source" in fails("encode", file, *named)
    assert run("encode", file, *max_effort, *named, "--revision", "2026-07") == july
    for revision in ((), ("--revision", "2026-04")):
        assert "absent is no folder" in fails("encode", file, "--checkpoint", "absent", *revision)


def test_encode_reads_the_three_apis(save):
    chat = {"messages": [{"role": "system", "content": "S"}, *TALK], "stream": True}
    messages = {"system": "S", "messages": TALK, "max_tokens": 9}
    responses = {"instructions": "S", "input": TALK}
    prompts = {run("encode", save(body)) for body in (chat, messages, responses)}
    assert prompts == {encode_messages([{"role": "system", "content": "S"}, *TALK], "thinking")}
    assert "one of chat, messages, responses" in fails("encode", save(chat), "--api", "soap")
    bare = [*TALK, {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}]}]
    assert run("encode", save(bare)).endswith(f"{c.EOS}{c.ASSISTANT}{c.THINK}")
    tolerated = run("encode", save(bare), "--api", "chat")
    assert f"{c.END_THINK}[Unsupported thinking]{c.EOS}" in tolerated


def test_a_request_says_how_it_is_encoded_unless_a_flag_does(save):
    low = save({"messages": TALK, "reasoning_effort": "max"}, "low")
    assert run("encode", low) == encode_messages(TALK, "thinking", reasoning_effort="max")
    assert run("encode", low, "--effort", "high") == encode_messages(TALK, "thinking")
    off = save({"messages": TALK, "thinking": {"type": "disabled"}}, "off")
    assert run("encode", off) == encode_messages(TALK, "chat")
    assert run("encode", off, "--effort", "high") == encode_messages(TALK, "thinking")
    held = {"messages": TALK, "tools": TOOLS, "thinking": {"type": "disabled"}}
    none = save(held | {"tool_choice": "none"}, "none")
    assert run("encode", none) == encode_messages(TALK, "chat")
    must = save(held | {"tool_choice": "required"}, "must")
    assert run("encode", must).endswith(f"{c.END_THINK}\n\n<{c.DSML}tool_calls>\n")


def test_encode_prints_what_a_context_lacks(save):
    past = [*TALK, {"role": "assistant", "content": "yes", "reasoning_content": "r"}]
    more = [{"role": "user", "content": "and?"}]
    whole = run("encode", save([*past, *more]))
    before = save(past, "past")
    new = run("encode", save(more, "more"), "--context", before)
    assert new == f"{c.USER}and?{c.ASSISTANT}{c.THINK}" and whole.endswith(f"{c.EOS}{new}")
    system = save([{"role": "system", "content": "late"}, *more], "system")
    assert "stands before the context" in fails("encode", system, "--context", before)
    twice = run("encode", save(TALK), "--no-bos", "--context", save(TALK))
    assert twice == encode_messages(TALK, "thinking", TALK)


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


def test_parse_knows_control_tokens_by_their_ids():
    words = Tokenizer.deepseek()
    end = words.token_id(c.EOS)
    spelled = words.encode(f"é{c.EOS}{c.END_THINK}")  # as text: no control id is among them
    want = {"role": "assistant", "reasoning_content": "", "tool_calls": []}
    want["content"] = f"é{c.EOS}{c.END_THINK}"
    pairs = [[want["content"], False], [c.EOS, True]]
    for given in ([*spelled, end], pairs):
        assert json.loads(run("parse", "-", "--ids", "--chat", given=json.dumps(given))) == want
    prompt = run("encode", "-", "--ids", "--effort", "none", given=json.dumps(TALK))
    cut = run("parse", "-", "--ids", "--chat", "--tolerant", given=prompt)
    assert json.loads(cut)["message"]["content"] == encode_messages(TALK, "chat").removesuffix(
        c.END_THINK
    )
    half = words.encode("é😀")[:-1]  # bytes that never become a character
    found = json.loads(run("parse", "-", "--ids", "--chat", "--tolerant", given=json.dumps(half)))
    assert found["message"]["content"] == words.decode(half)


@pytest.mark.parametrize(
    "given, said",
    [
        ([129_280], "id 129280"),
        ([-1], "id -1"),
        (3, "list of ids"),
        ([True], "list of ids"),
        ([3, ["x", True]], "list of ids"),
        ([["x", 1]], "list of ids"),
        ([["\ud800", False]], "half of a character"),
    ],
)
def test_parse_refuses_what_is_no_list_of_ids(save, given, said):
    assert said in fails("parse", save(given), "--ids", "--chat")
    assert "--tokenizer is for --ids" in fails("parse", save(given), "--tokenizer", "x")


def test_parse_begins_where_the_request_left_off(save):
    held = {"messages": TALK, "tools": TOOLS, "thinking": {"type": "disabled"}}
    call = f'<{c.DSML}invoke name="f">\n\n</{c.DSML}invoke>\n</{c.DSML}tool_calls>'
    must = save(held | {"tool_choice": "required"}, "must")
    for flags in ((), ("--tolerant",)):
        found = json.loads(run("parse", save(call + c.EOS), "--tools", must, *flags))
        message = found["message"] if flags else found
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["f"]
        assert not flags or found["errors"] == []
    none = save(held | {"tool_choice": "none"}, "none")
    block = f"\n\n<{c.DSML}tool_calls>\n{call}"
    found = json.loads(run("parse", save(block + c.EOS), "--tools", none, "--tolerant"))
    assert not found["message"]["tool_calls"] and call in found["message"]["content"]
    alone = save({"tools": TOOLS, "tool_choice": "none"}, "alone")
    found = json.loads(run("parse", save(block), "--chat", "--tools", alone, "--tolerant"))
    assert not found["message"]["tool_calls"]
    assert "'f' is not in force" in fails("parse", save(block + c.EOS), "--tools", none)
    prefix = {"role": "assistant", "content": "So", "prefix": True}
    going_on = save({"messages": [*TALK, prefix]}, "prefix")
    assert json.loads(run("parse", save(f" be it{c.EOS}"), "--tools", going_on)) == {
        "role": "assistant",
        "content": " be it",
        "reasoning_content": "",
        "tool_calls": [],
    }


def test_wrong_input_is_one_line(save, tmp_path):
    nothing = tmp_path / "nothing"
    for command in ("encode", "parse"):
        assert "nothing" in fails(command, nothing)
    assert "messages[1].role: must be one of" in fails("encode", save([*TALK, {"role": "boss"}]))
    assert "not JSON" in fails("encode", save("{bad"))
    assert "empty" in fails("encode", save(" \n"))
    assert '"messages"' in fails("encode", save("3"))
    assert "'huge'" in fails("encode", save(TALK), "--effort", "huge")
    assert "'sing'" in fails("encode", save(TALK), "--task", "sing")
    broken = save([{"role": "user", "content": "\ud800"}])
    for flags in ((), ("--ids",)):
        assert "[0].content: '\\ud800' ends in half of a char" in fails("encode", broken, *flags)
    assert "no </think> came" in fails("parse", save("why"))
    assert "list of tools" in fails("parse", save("x"), "--tools", save("3", "tools"))
    nothing.write_bytes(b"\xff")
    assert "not UTF-8" in fails("parse", nothing)
