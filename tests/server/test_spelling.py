"""A reply that comes back as text is encoded as the ids that were sampled."""

import itertools
import sqlite3

import pytest
from server.engines import Scripted
from server.running import MODEL, serving
from server.test_chat import BLOCK, EOS, OFF, TOOLS, USER
from server.test_messages import TOOLS as MESSAGES_TOOLS


def letters(tokenizer, text):
    """The ids of a text as no tokenizer writes it: letter by letter, control tokens whole."""
    ids = []
    for token in tokenizer.encode(text, special=True):
        if tokenizer.control_text(token) is not None:
            ids.append(token)
        else:
            for letter in tokenizer.decode([token]):
                ids += tokenizer.encode(letter)
    return ids


def same_beginning(a, b):
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b)))  # noqa: B905


def said(server, *texts):
    scripts = [letters(server.engine.tokenizer, text) for text in texts]
    server.say(*scripts, letters(server.engine.tokenizer, EOS))
    return scripts


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_without_thinking(server, stream):
    (script,) = said(server, f"Good day to you.{EOS}")
    ask = server.openai.chat.completions.create
    reply = ask(model=MODEL, messages=USER, extra_body=OFF, stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in reply)
    else:
        text = reply.choices[0].message.content
    known = [*server.engine.jobs[-1].ids, *script]
    history = [*USER, {"role": "assistant", "content": text}, {"role": "user", "content": "bye"}]
    ask(model=MODEL, messages=history, extra_body=OFF)
    assert server.engine.jobs[-1].ids[: len(known)] == known
    history[1]["content"] += "!"  # an edited reply is encoded as it stands
    ask(model=MODEL, messages=history, extra_body=OFF)
    ids = server.engine.jobs[-1].ids
    assert same_beginning(ids, known) < len(known) - len(script) + 2
    assert "Good day to you.!" in server.engine.tokenizer.decode(ids)


@pytest.mark.parametrize("forced", [False, True])
def test_calls_and_reasoning(server, forced):
    block = (
        BLOCK.split("tool_calls>\n", 1)[1] if forced else f"hm, let me see</think>one moment{BLOCK}"
    )
    (script,) = said(server, block + EOS)
    more = {"tools": TOOLS} | ({"tool_choice": "required", "extra_body": OFF} if forced else {})
    ask = server.openai.chat.completions.create
    message = ask(model=MODEL, messages=USER, **more).choices[0].message
    assert len(message.tool_calls) == 2
    known = [*server.engine.jobs[-1].ids, *script]
    history = [*USER, message.model_dump(exclude_none=True)]
    history += [
        {"role": "tool", "tool_call_id": call.id, "content": "x"} for call in message.tool_calls
    ]
    ask(model=MODEL, messages=history, tools=TOOLS, extra_body=more.get("extra_body"))
    assert server.engine.jobs[-1].ids[: len(known)] == known


def test_on_disk(tmp_path, tokenizer):
    """After a restart as before; damaged, locked or unwritable it is only not there."""

    def remembered(folder):
        with serving(Scripted(tokenizer), tokenizer, folder=folder) as one:
            ask = one.openai.chat.completions.create
            history = [*USER, {"role": "assistant", "content": "Good day."}, *USER]
            one.say(letters(tokenizer, f"Good day.{EOS}"))
            ask(model=MODEL, messages=history, extra_body=OFF)
            known = letters(tokenizer, "Good day.")
            ids = list(one.engine.jobs[-1].ids)
            at = ids.index(tokenizer.token_id("</think>")) + 1
            found = ids[at : at + len(known)] == known
            ask(model=MODEL, messages=USER, extra_body=OFF)
            return found

    assert [remembered(tmp_path) for _ in range(2)] == [False, True]
    (file,) = tmp_path.glob("*.sqlite")
    base = sqlite3.connect(file)
    base.execute("UPDATE said SET ids = zeroblob(40)")
    base.commit()
    base.close()
    assert [remembered(tmp_path) for _ in range(2)] == [False, True]
    file.write_bytes(b"no database at all" * 1000)
    assert remembered(tmp_path) is False
    plain = tmp_path / "file"
    plain.write_text("a file, no folder")
    assert remembered(plain) is False


def test_messages_and_responses(server):
    (script,) = said(server, f"hm</think>one moment{BLOCK}{EOS}")
    create = server.anthropic.messages.create
    more = {"model": MODEL, "max_tokens": 900, "tools": MESSAGES_TOOLS}
    reply = create(messages=USER, **more)
    known = [*server.engine.jobs[-1].ids, *script]
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "x"}
        for block in reply.content
        if block.type == "tool_use"
    ]
    said_back = [block.model_dump(exclude={"caller", "citations"}) for block in reply.content]
    history = [*USER, {"role": "assistant", "content": said_back}]
    create(messages=[*history, {"role": "user", "content": results}], **more)
    assert server.engine.jobs[-1].ids[: len(known)] == known
    (script,) = said(server, f"Paris it is.{EOS}")
    create = server.openai.responses.create
    first = create(model=MODEL, input="q", reasoning={"effort": "none"})
    known = [*server.engine.jobs[-1].ids, *script]
    create(model=MODEL, input="r", previous_response_id=first.id, reasoning={"effort": "none"})
    assert server.engine.jobs[-1].ids[: len(known)] == known


def test_what_was_mended_or_stopped_is_not_remembered(server):
    ask = server.openai.chat.completions.create
    for text, more in ((f"a<｜User｜>b{EOS}", {}), (f"one two{EOS}", {"stop": "two"})):
        said(server, text)
        reply = ask(model=MODEL, messages=USER, extra_body=OFF, **more).choices[0].message.content
        assert reply in ("ab", "one ")
        history = [*USER, {"role": "assistant", "content": reply}, *USER]
        ask(model=MODEL, messages=history, extra_body=OFF)
        tokenizer = server.engine.tokenizer
        ids = server.engine.jobs[-1].ids
        user = tokenizer.token_id("<｜User｜>")
        assert list(ids).count(user) == 2
        plain = tokenizer.encode(reply)
        assert plain == ids[ids.index(tokenizer.token_id("</think>")) + 1 :][: len(plain)]
