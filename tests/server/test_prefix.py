"""What of a conversation is read again, in tokens, as each API's `usage` counts them."""

import random

import pytest
from server.engines import engine_of
from server.running import serving
from server.talks import Chat, Following, Messages, Responses

from dsv4.checkpoint.identity import identity
from dsv4.checkpoint.load import packaged
from dsv4.protocol.constants import TASKS

WORDS = ("sun", "moon", "river", "stone", "bread", "wind", "house", "garden", "child", "bird")


def text(seed, count):
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(count))


APIS = [Chat, Messages, Responses, Following]


@pytest.mark.parametrize("api", APIS)
def test_a_turn_reads_its_message(real, api):
    """Ten turns: the new message and at most 16 tokens; a retry: one."""
    talk = api(real)
    for turn in range(10):
        fresh = f"{api.__name__}, turn {turn}: {text(turn, 30)}"
        talk.user(fresh)
        prompt, read, reply = talk.ask(turn)
        assert not turn or read <= len(real.service.tokenizer.encode(fresh)) + 16
        talk.keep(reply)
    assert prompt > 450
    if api is not Following:
        talk.messages.pop()
        assert talk.ask(99)[1] == 1


@pytest.mark.parametrize("api", APIS)
def test_a_turn_with_reasoning_and_calls_reads_what_is_new(real, api):
    """Replies are sent back as text and JSON, and are known as the ids that were sampled."""
    talk = api(real, think=True, tools=True)
    called = 0
    for turn in range(6):
        fresh = f"{api.__name__} with tools, turn {turn}: {text(50 + turn, 12)}"
        talk.user(fresh)
        forced = turn % 2 == 1
        _, read, reply = talk.ask(turn, 300 if forced else 20, forced)
        assert not turn or read <= len(real.service.tokenizer.encode(fresh)) + 16
        while calls := talk.keep(reply, "ten degrees"):
            called += 1
            _, read, reply = talk.ask(turn + 20, 20)
            assert read <= 20 * calls + 16
    assert called >= 2


def test_without_tools_a_turn_reads_the_last_reply_too(real):
    """Its reasoning is gone from the prompt, and its text has never been read without it; what is
    older has been."""
    talk, encode, content, reasoned = Chat(real, think=True), real.service.tokenizer.encode, "", 0
    for turn in range(5):
        fresh = f"Thinking, turn {turn}: {text(80 + turn, 20)}"
        talk.user(fresh)
        _, read, reply = talk.ask(turn, 160)
        assert not turn or 0 <= read - len(encode(fresh)) - len(encode(content)) <= 16
        talk.keep(reply)
        content = reply.content or ""
        reasoned += len(encode(reply.reasoning_content or ""))
    assert reasoned > 5


@pytest.mark.parametrize("api", [Chat, Messages, Responses])
def test_an_edit_reads_what_follows_it(real, api):
    """From the edit on and at most 160 tokens, also where a block near the front changes."""
    talk = api(real)
    for turn in range(8):
        talk.user(f"{api.__name__} edited, turn {turn}: {text(100 + turn, 60)}")
        talk.keep(talk.ask(turn)[2])
    encode = real.service.tokenizer.encode
    for turn in (4, 7, 0, 2):
        place = next(
            n for n, m in enumerate(talk.messages) if f"turn {turn}:" in str(m.get("content"))
        )
        talk.messages[place] = {"role": "user", "content": f"Anew, turn {turn}: {text(turn, 60)}"}
        prompt, read, _ = talk.ask(0, 4)
        after = sum(len(encode(said(m))) + 4 for m in talk.messages[place:])
        assert after - 40 * 2 <= read <= after + 160
        assert turn == 0 or read < prompt - 100


def said(message):
    content = message.get("content")
    return (
        content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    )


def test_a_block_near_the_front_that_changes(real):
    """A coding agent: a long system text, a block of state behind it, and all that was said."""
    front, tokenizer = text(7, 400), real.service.tokenizer
    talk = Chat(real)
    for turn in range(5):
        state = f"Open file: {text(200 + turn, 8)}"
        talk.messages[:1] = [{"role": "system", "content": f"{front}\n{state}"}]
        talk.user(f"Step {turn}: {text(300 + turn, 10)}")
        prompt, read, reply = talk.ask(turn)
        if turn:
            assert prompt - len(tokenizer.encode(front)) <= read + 12
            assert read <= prompt - len(tokenizer.encode(front)) + 160
        talk.keep(reply)


def test_after_a_restart_from_disk(nano, tokenizer, tmp_path):
    """Turns, a retry and an edit in the middle, each with a new server on the folder."""
    options = {"folder": tmp_path, "identity": identity(packaged())}
    talks = [api(None) for api in (Chat, Messages, Responses)]
    encode = tokenizer.encode

    def ask(seed):
        with serving(engine_of(nano, tokenizer, **options), tokenizer, folder=tmp_path) as server:
            for talk in talks:
                talk.server = server
            return [talk.ask(seed) for talk in talks]

    for turn in range(3):
        fresh = [f"{type(talk)} after restarts, turn {turn}: {text(400, 90)}" for talk in talks]
        for talk, one in zip(talks, fresh, strict=True):
            talk.user(one)
        for talk, one, (_, read, reply) in zip(talks, fresh, ask(turn), strict=True):
            assert not turn or read <= len(encode(one)) + 16
            talk.keep(reply)
    for talk in talks:
        del talk.messages[-1]
    assert [read for _, read, _ in ask(9)] == [1, 1, 1]
    for talk in talks:
        talk.messages[2] = {"role": "user", "content": f"Anew: {text(500, 60)}"}
    for talk, (prompt, read, _) in zip(talks, ask(9), strict=True):
        after = sum(len(encode(said(message))) + 4 for message in talk.messages[2:])
        assert after < read + 40 and read <= after + 160 < prompt + 60


@pytest.mark.parametrize("api", [Messages, Responses])
def test_reminders_that_come_each_turn(real, api):
    """`Tokens left`, a system message at the end each turn: where it stands it spoils nothing."""
    remind(api(real), "system" if api is Messages else "developer")


def test_system_messages_that_come_each_turn_stay_in_place_where_the_server_is_told_so(
    nano, tokenizer
):
    with serving(engine_of(nano, tokenizer), tokenizer, system_in_place=True) as server:
        for api in (Chat, Responses):
            talk = api(server)
            talk.messages.append({"role": "system", "content": f"{api.__name__}: {text(599, 20)}"})
            remind(talk, "system")


def remind(talk, role):
    for turn in range(5):
        fresh = f"{type(talk)} reminded, turn {turn}: {text(600 + turn, 20)}"
        talk.user(fresh)
        left = f"{9_000 - 700 * turn} tokens left."
        talk.messages.append({"role": role, "content": left})
        _, read, reply = talk.ask(turn)
        around = len(
            talk.server.service.tokenizer.encode("<system-reminder>\n\n</system-reminder>")
        )
        fresh = len(talk.server.service.tokenizer.encode(fresh + left))
        assert not turn or read <= fresh + around + 16
        talk.keep(reply)


@pytest.mark.parametrize("think", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_a_quick_instruction_goes_on_from_what_is_known(real, task, think):
    talk = Chat(real, think)
    talk.user(f"{task} {think}: {text(700, 40)}")
    _, _, reply = talk.ask(1, 60)
    if task == "title":
        talk.messages.append({"role": "assistant", "content": reply.content or ""})
        if think:  # its reasoning is not in the next prompt, so its text is read once more
            talk.ask(1, 1)
    talk.messages[-1]["task"] = task
    prompt, read, answer = talk.ask(2, 8, logprobs=True)
    known = 0 if task != "title" or not think else len(real.service.tokenizer.encode(reply.content))
    assert read <= 4 + known and prompt > 40
    assert answer.content and not answer.tool_calls
    assert not getattr(answer, "reasoning_content", None)
    del talk.messages[-1]["task"]
    if task != "title":
        assert talk.ask(1, 60)[2].content == reply.content  # and the conversation goes on
