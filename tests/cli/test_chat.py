"""`dsv4 generate` and `dsv4 chat` as a user runs them: in a pipe, and at a terminal."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import termios
import time

import pytest
from typer.testing import CliRunner

import dsv4
from dsv4.cli import app, session
from dsv4.generation import Completion
from dsv4.protocol.deltas import Content, Reasoning

from .command import command, environment

TALK = [{"role": "user", "content": "hé"}]


@pytest.fixture(scope="module")
def folder(make_model, tokenizer_file, tmp_path_factory):
    size = dsv4.Tokenizer.load(tokenizer_file).vocab_size
    model = make_model(spread=0.2, vocab_size=size)
    path = tmp_path_factory.mktemp("chat") / "model"
    return dsv4.save(model.state_dict(), model.config, path, tokenizer_files=[tokenizer_file])


def run(*words, given="", code=0):
    found = CliRunner().invoke(app, [str(word) for word in words], input=given)
    assert found.exit_code == code, found.output
    return found


# ---- generate ---------------------------------------------------------------------------------


def test_generate_repeats_with_a_seed(folder):
    words = ("generate", folder, "--prompt", "ab", "--seed", 2**64 + 3, "--max-tokens", 6)
    assert run(*words).stdout == run(*words).stdout != "\n"


def test_a_prompt_comes_from_encode(folder):
    file = folder / "tokenizer.json"
    words = ("--temperature", 0, "--max-tokens", 8)
    encoded = ("encode", "--effort", "none", "--tokenizer", file)
    ids = run(*encoded[:3], "--ids", "--tokenizer", file, given=json.dumps(TALK)).stdout
    text = run(*encoded[:3], given=json.dumps(TALK)).stdout
    model = dsv4.load(folder)
    expected = dsv4.generate(
        model, json.loads(ids), dsv4.Tokenizer.load(folder), temperature=0, max_tokens=8
    )
    for found in (
        run("generate", folder, "--ids", *words, given=ids),
        run("generate", folder, "--ids", "--prompt", ids, *words),
        run("generate", folder, "--special", *words, given=text),
        run(
            "generate",
            folder,
            "--special",
            *words,
            given=text.removeprefix("<｜begin▁of▁sentence｜>"),
        ),
        run("generate", folder, "--special", *words, given="\ufeff" + text),
    ):
        assert found.stdout == expected.text + "\n"
    assert run("generate", folder, *words, given=text).stdout != expected.text + "\n"


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        (["generate", "--top-p", "7"], "", "top_p = 7"),
        (["generate", "--mode", "exact"], "x", "mode = 'exact' is for packed weights"),
        (["generate", "--dtype", "float16"], "", "dtype = 'float16': must be float32 or bfloat16"),
        (["generate", "--special", "--ids"], "", "--special and --ids exclude each other"),
        (["generate", "--ids"], "[1.5]", "must be a list of token ids"),
        (["generate", "--ids"], "[true]", "must be a list of token ids"),
        (["generate", "--ids"], "{", "stdin: not JSON"),
        (["generate", "--ids", "--prompt", "{"], "", "--prompt: not JSON"),
        (["generate", "--ids"], "[-1]", "-1"),
        (["generate", "--ids"], "[99999]", "99999"),
        (["generate", "--ids"], "[]", "no tokens"),
        (["generate"], b"\xff", "stdin: not UTF-8"),
        (["generate", "--copy", "--max-resident", "1GB"], "", "exclude each other"),
        (["generate", "--dtype", "float32", "--mode", "fast"], "", "exclude each other"),
        (["generate", "--temperature", "nan"], "", "temperature = nan"),
        (["generate", "--stop", ""], "", "none empty"),
        (["chat", "--max-tokens", "0"], "", "max_tokens = 0"),
        (["chat"], b"hi\n\xff\n", "stdin: line 2 is not UTF-8"),
    ],
)
def test_errors_are_one_line(words, given, message, folder):
    found = run(words[0], folder, "--max-tokens", 2, *words[1:], given=given, code=2)
    last = found.stderr.splitlines()[-1]
    assert message in last and last.startswith("dsv4: ") and "Traceback" not in found.stderr
    assert found.stdout == "" or words == ["chat"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such/folder"], "no/such/folder is no folder"),
        (["flash"], "flash is a preset, which has no weights"),
        (["--effort", "huge"], "effort = 'huge'"),
        (["--revision", "2025-01"], "revision = '2025-01'"),
    ],
)
def test_wrong_words_are_refused_before_loading(words, message, monkeypatch):
    monkeypatch.setattr("dsv4.checkpoint.load.load", lambda *_: pytest.fail("loaded"))
    assert message in run("chat", *words, code=2).stderr


def test_nano_is_the_packaged_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--prompt", "The sun", "--max-tokens", 4, "--temperature", 0)
    named = run("generate", "nano", *words)
    assert named.stdout == run("generate", *words).stdout and named.stderr == ""
    (tmp_path / "nano").mkdir()
    assert "the folder is ./nano" in run("generate", "nano", *words).stderr


# ---- chat in a pipe ---------------------------------------------------------------------------


def test_a_revision_flag_asks_no_encoder(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "encoding").mkdir()
    (broken / "encoding" / "encoding_dsv4.py").write_text("x = (")
    words = ("chat", broken, "--effort", "max", "--max-tokens", 1)
    said = run(*words, given="hi\n", code=2).stderr
    assert "is no Python source" in said and said.count("\n") == 1
    run(*words, "--revision", "2026-07", given="hi\n")


def test_only_known_commands_are_commands(folder, monkeypatch):
    asked = []

    def ask(dialogue, text, interrupted, progress):
        asked.append(text)
        dialogue.completion = Completion([1], "", "stop")
        return iter([Content("ok")])

    monkeypatch.setattr("dsv4.chat.Chat.ask", ask)
    lines = ["\ufeff/", "/etc/passwd", "//reset", "// why", "/reset", "/reset now", "/effort max"]
    lines += ["/effort huge", "/effort", "  two", "", "/help", "/exit", "not read"]
    found = run("chat", folder, given="\n".join(lines))
    assert asked == ["/", "/etc/passwd", "/reset", "// why", "  two"]
    assert found.stdout == "ok\n" * 5
    told = ["the dialogue is forgotten", "effort is max", "effort is max", "//reset sends the line"]
    assert all(words in found.stderr for words in [*told, "effort = 'huge'", "/exit or Ctrl-D"])


def test_reasoning_is_told_from_the_answer(capsys):
    shown = session._Shown()
    for piece in (Reasoning("why"), Reasoning(" :smile:"), Content("a\x1b[31m"), Content("")):
        shown.add(piece)
    shown.end()
    assert capsys.readouterr().out == "<think>\nwhy :smile:\n</think>\n\na\x1b[31m\n"
    shown = session._Shown()
    shown.add(Reasoning("why"))
    shown.end()
    assert capsys.readouterr().out == "<think>\nwhy\n</think>\n\n"


def test_a_cut_reply_is_said_to_be(folder, make_model, tokenizer_file, tmp_path):
    words = ("--seed", 1, "--max-tokens", 3)
    assert "(cut after 3 tokens: --max-tokens" in run("chat", folder, *words, given="Hi").stderr
    size = dsv4.Tokenizer.load(tokenizer_file).vocab_size
    model = make_model(spread=0.2, vocab_size=size, max_position_embeddings=10)
    short = dsv4.save(
        model.state_dict(), model.config, tmp_path / "short", tokenizer_files=[tokenizer_file]
    )
    found = run("chat", short, "--seed", 1, given="Hi\n" + "x" * 30)
    assert "(cut at the end of the context, 10 tokens)" in found.stderr
    assert "the context is 10: shorten the message" in found.stderr


def test_the_system_message_opens_the_dialogue(folder, monkeypatch):
    kept = []
    monkeypatch.setattr(session, "converse", kept.append)
    run("chat", folder, "--system", "Be brief.", "--effort", "ultra", "--revision", "2026-07")
    (dialogue,) = kept
    assert dialogue.messages == [{"role": "system", "content": "Be brief."}]
    assert (dialogue.effort, dialogue.revision) == ("ultra", "2026-07")


@pytest.mark.parametrize("words", [("chat",), ("generate", "--prompt", "Hello")])
def test_ctrl_c_in_a_pipe_ends_with_130(folder, words):
    process = subprocess.Popen(
        command(words[0], folder, "--seed", 1, "--max-tokens", 3000, *words[1:]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdin.write(b"Hello\n")
    process.stdin.flush()
    assert process.stdout.read(1)  # the reply has begun
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 130 and out.endswith(b"\n") and told == b"dsv4: interrupted\n"


# ---- chat at a terminal -----------------------------------------------------------------------


class Typist:
    """A user at a terminal of 80 columns."""

    def __init__(self, *words, home):
        self.process, self.screen = None, ""
        self.terminal, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        env = environment(XDG_STATE_HOME=str(home), TERM="xterm-256color")
        env.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            command(*words),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # it controls this
        )
        os.close(theirs)

    def type(self, text):
        data = text.encode()
        while data:
            data = data[os.write(self.terminal, data[:512]) :]
            self.look(0.01)

    def look(self, seconds=0.1):
        """Take in what appears; False once the screen is gone."""
        if not select.select([self.terminal], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.terminal, 1 << 16)
        except OSError:
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)

    def see(self, words, seconds=60):
        """Wait until `words` appear, and forget what came before them."""
        end = time.monotonic() + seconds
        while words not in self.screen:
            assert self.look(0.1) and time.monotonic() < end, f"no {words!r} in {self.screen!r}"
        before, _, self.screen = self.screen.partition(words)
        return before

    def leave(self):
        end = time.monotonic() + 60
        while self.look(0.1) and self.process.poll() is None:
            assert time.monotonic() < end, self.screen
        return self.process.wait(timeout=60)


PROMPT = "\x1b[0m>"


def test_a_dialogue_at_a_terminal(folder, tmp_path):
    user = Typist("chat", folder, "--seed", 1, "--max-tokens", 2, home=tmp_path)
    banner = user.see(PROMPT)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", banner).split("\r\n")
    assert len(lines) > 2 and all(len(line) <= 80 for line in lines)
    long = "y" * 5000
    user.type(f"\x1b[200~one\n{long}\nthree\x1b[201~")  # a paste is one question
    user.type("\r")
    user.see("the prompt has 5014 tokens, the context is 4096: shorten the message")
    user.see(PROMPT)
    user.type("ab\x1b[DX\r")  # the arrow moves
    user.see("(cut after 2 tokens")
    user.see(PROMPT)
    user.type("junk\x03")  # clears
    user.see("Ctrl-C again")
    user.type("\x1b[A\r")  # the last line again
    user.see("(cut after 2 tokens")
    user.see(PROMPT)
    user.type("\x04")
    assert user.leave() == 0
    kept = (tmp_path / "dsv4" / "history").read_text()
    entries = ["\n".join(re.findall(r"^\+(.*)$", e, re.M)) for e in kept.split("\n# ")[1:]]
    assert entries == [f"one\n{long}\nthree", "aXb"]
    assert (tmp_path / "dsv4" / "history").stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_a_reply_and_twice_leaves(folder, tmp_path):
    home = tmp_path / "locked"
    home.write_text("no folder")  # history is not kept, and nothing is said of it
    user = Typist("chat", folder, "--seed", 1, "--max-tokens", 3000, home=home)
    user.see(PROMPT)
    user.type("Hello\r")
    user.see("\x1b[?2004h")  # the line was taken
    user.look(5)
    user.type("\x03")
    user.see(PROMPT)
    user.type("/reset\r")
    user.see("the dialogue is forgotten")
    user.see(PROMPT)
    user.type("\x03")
    user.see("Ctrl-C again")
    user.type("\x03")
    assert user.leave() == 0


def test_a_terminal_is_asked_for_text(folder, tmp_path):
    user = Typist("generate", folder, "--max-tokens", 1, home=tmp_path)
    user.see("reading stdin; Ctrl-D on a line of its own ends it")
    user.type("Hello\n\x04")
    assert user.leave() == 0


def test_a_model_does_not_drive_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = session._Shown()
    shown.add(Reasoning("w\x07"))
    shown.add(Content("\x1b]0;title\x07\x1b[2J :smile: [red]é[/red]\r\x9b1m\tz\n"))
    shown.end()
    out = capsys.readouterr().out
    assert "␛]0;title␇␛[2J :smile: [red]é[/red]␍\\x9b1m\tz\n" in out and "w␇" in out
    assert set(re.findall(r"\x1b[^m]*m", out)) <= {"\x1b[2m", "\x1b[0m"}
