"""What goes in and out of a command, whatever the shell hands it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsv4.cli import app
from dsv4.cli.streams import read_json, read_text, visible
from dsv4.protocol import encode_messages

from .command import call, command, environment, one_line

TALK = [{"role": "user", "content": "hé × 中"}]
PROMPT = encode_messages(TALK, "thinking").encode()
GIVEN = json.dumps(TALK, ensure_ascii=False).encode()


def test_a_file_is_utf8_with_or_without_a_bom(tmp_path):
    file = tmp_path / "given"
    for data, text in ((b"\xef\xbb\xbfh\xc3\xa9", "hé"), (b"", ""), (b"a\r\n", "a\r\n")):
        file.write_bytes(data)
        assert read_text(str(file)) == text
    for data, words in (
        (b"ab\xff", "not UTF-8: byte 2 is 0xff"),
        ("é".encode("utf-16"), "not UTF-8 but UTF-16: save it as UTF-8"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=words):
            read_text(str(file))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 5000, "not JSON"),
        ("[1,]", "not JSON"),
        (" \n", "empty"),
    ],
)
def test_json_that_cannot_be_read(text, words, tmp_path):
    (tmp_path / "given").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_json(str(tmp_path / "given"))


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = call("encode", tmp_path / "pipe", timeout=30)
    assert "a named pipe" in one_line(done)
    line = " ".join(command("encode", "<(echo x)")).replace("<(echo x)", "")
    script = f"exec {command()[0]} -c '{command()[2]}' encode <(cat)"
    done = subprocess.run(
        ["bash", "-c", script], input=GIVEN, capture_output=True, env=environment(), timeout=60
    )
    assert line and done.stdout == PROMPT


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "POSIX"}])
def test_the_locale_changes_nothing(locale):
    done = call("encode", given=GIVEN, env=environment(**locale))
    assert done.returncode == 0 and done.stdout == PROMPT
    assert "é: No such file" in one_line(call("parse", "é", env=environment(**locale)))


def test_closed_streams_are_one_line():
    for closing, words in (("<&-", "stdin is closed"), (">&-", "stdout is closed")):
        script = f"exec {command()[0]} -c '{command()[2]}' encode {closing}"
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, env=environment(), timeout=60
        )
        assert words in one_line(done)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
@pytest.mark.parametrize(
    "words", [["encode"], ["inspect", "flash"], ["--help"], ["parse", "-h"], ["--version"]]
)
def test_a_full_disk_is_one_line(words):
    with Path("/dev/full").open("wb") as full:
        done = call(*words, given=GIVEN, stdout=full)
    assert one_line(done) == "dsv4: stdout: No space left on device\n"


@pytest.mark.parametrize("words", [["encode"], ["inspect", "flash"], ["--help"]])
def test_a_closed_pipe_is_silent(words):
    reading, writing = os.pipe()
    os.close(reading)
    done = call(*words, given=GIVEN, stdout=writing)
    os.close(writing)
    assert done.stderr == b"" and done.returncode == 141


def test_what_a_name_holds_does_not_break_the_line():
    found = CliRunner().invoke(app, ["inspect", "a\n[b]\x1b[31m"])
    assert found.exit_code == 2
    assert found.stderr.startswith("dsv4: a␊[b]␛[31m is neither a folder nor a preset")
    assert visible("\x9b1m\udcff\x7f") == "\\x9b1m\ufffd␡"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chatt"], "no such command 'chatt'. Did you mean 'chat'?; see dsv4 --help"),
        (["chat", "--sede"], "no such option: --sede"),
        (["chat", "--seed", "x"], "invalid value for '--seed'"),
        (["init"], "missing argument 'out'; see dsv4 init --help"),
        (["parse", "a", "b"], "unexpected extra argument"),
    ],
)
def test_usage_errors_look_like_all_others(words, message):
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2 and found.stdout == ""
    assert found.stderr.startswith("dsv4: ") and found.stderr.count("\n") == 1
    assert message in found.stderr


STALE = """
import sys, types
stale = types.ModuleType("dsv4._native")
stale.__file__ = "old/_native.so"
sys.modules["dsv4._native"] = stale
from dsv4.cli import main
main()
"""


def test_a_stale_native_module_is_one_line_and_then_plain_operators_run():
    words = ("generate", "--prompt", "The sun", "--max-tokens", "2", "--temperature", "0")
    stale, right = (
        subprocess.run(
            [sys.executable, "-c", script, *words],
            capture_output=True,
            env=environment(),
            timeout=120,
        )
        for script in (STALE, command()[2])
    )
    said = one_line(stale, code=0)
    assert "old/_native.so was built from other code. Run pip install -e . again" in said
    assert stale.stdout == right.stdout and right.stdout.strip()


def test_help_and_version():
    for words in (["-h"], ["--help"], [], ["chat", "-h"]):
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 0 and found.stdout.startswith("Usage: dsv4")
        assert all(len(line) <= 80 for line in found.stdout.splitlines())
        assert "bool" not in found.stdout and "..." not in found.stdout.partition("\n")[2]
    assert CliRunner().invoke(app, ["--version"]).stdout == "dsv4 0.1.0\n"
    found = CliRunner().invoke(app, ["parse", "--help"]).stdout
    assert '{"message", "errors", "truncated"}' in found and "--tolerant  " in found


def test_the_package_is_the_command_too():
    words = [sys.executable, "-m", "dsv4"]
    for more, code, text in ((["--version"], 0, "dsv4 0.1.0"), (["chet"], 2, "dsv4 --help")):
        done = subprocess.run([*words, *more], env=environment(), capture_output=True, timeout=120)
        assert done.returncode == code and text.encode() in done.stdout + done.stderr
        assert b"__main__" not in done.stdout + done.stderr


@pytest.mark.parametrize("threads", ["-1", "0", "40000"])
@pytest.mark.parametrize("words", [["chat"], ["generate"], ["train", "out"]])
def test_thread_counts_are_checked(words, threads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, [*words, "--threads", threads])
    assert found.exit_code == 2 and f"threads = {threads}: must be between 1 and" in found.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "out", "--preset", "nano", "--config", "x"], "--preset and --config exclude"),
        (["train", "out", "--steps", "3", "--minutes", "1"], "--steps and --minutes exclude"),
        (["init", "out", "--preset", "nano", "--config", "x"], "--preset and --config exclude"),
        (["encode", "x", "--ids", "--segments"], "--ids and --segments exclude"),
        (["parse", "x", "--thinking", "--chat"], "--thinking and --chat exclude"),
        (["encode", "x", "--tokenizer", "x"], "--tokenizer is for --ids"),
        (["init", "out", "--seed", str(2**32)], "invalid value for '--seed'"),
        (["init", "out", "--seed", "-1"], "invalid value for '--seed'"),
        (["train", "out", "--seed", str(2**64)], "seed = "),
    ],
)
def test_what_contradicts_or_has_no_meaning_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2 and found.stderr.count("\n") == 1 and message in found.stderr
    assert not list(tmp_path.iterdir())
