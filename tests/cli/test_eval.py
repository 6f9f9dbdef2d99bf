"""`dsv4 eval` as a user runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from dsv4.cli import app


def run(*args):
    return CliRunner().invoke(app, ["eval", *map(str, args)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of three tasks and a row that needs data."""
    out = tmp_path_factory.mktemp("eval") / "run"
    words = ["--suite", "copy", "--suite", "next_of_series", "--suite", "apex"]
    said = run("nano", *words, "--limit", 2, "--out", out, "--price-out", 2)
    assert said.exit_code == 0, said.output
    return out


WORDS = ["--suite", "copy", "--suite", "next_of_series", "--suite", "apex", "--price-out", 2]


def test_what_a_run_leaves(folder):
    rows = json.loads((folder / "results.json").read_text())
    assert [row["task"] for row in rows] == ["copy", "next_of_series", "instruct/apex"]
    assert rows[0]["samples"] == 2 and rows[0]["cost"] > 0 and rows[0]["prompts"]
    assert rows[2]["score"] is None and "hub: MathArena" in rows[2]["note"]
    assert "| V4-Flash | V4-Pro |" in (folder / "table.md").read_text()
    assert len((folder / "samples.jsonl").read_text().splitlines()) == 5


def test_going_on_and_grading_anew(folder, tmp_path):
    table = (folder / "table.md").read_text()
    again = run("nano", *WORDS, "--limit", 2, "--out", folder)
    assert again.exit_code == 2 and "--resume" in again.output
    plot = tmp_path / "bars.png"
    for more in (["--resume"], ["--regrade", "--plot", plot]):
        said = run("nano", *WORDS, "--limit", 2, "--out", folder, *more)
        assert said.exit_code == 0, said.output
        assert (folder / "table.md").read_text() == table
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_grading_anew_knows_what_was_asked(folder):
    table = (folder / "table.md").read_text()
    said = run("nano", "--out", folder, "--regrade", "--price-out", 2)
    assert said.exit_code == 0 and (folder / "table.md").read_text() == table
    for words, message in (
        (["--suite", "copy"], "begun with suites"),
        (["--seed", 0, "--limit", 3], "begun with limit"),
        (["--out", folder / "none"], "--regrade needs the log"),
    ):
        said = run("nano", "--out", folder, "--regrade", *words)
        assert said.exit_code == 2 and message in said.output


def test_contexts_are_known_to_a_log_that_is_graded_anew(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    lines = (copy / "samples.jsonl").read_text().splitlines()
    settings = json.loads(lines[0]) | {"suites": ["needle_1m"], "context": 4096}
    (copy / "samples.jsonl").write_text(json.dumps(settings) + "\n")
    said = run("nano", "--out", copy, "--regrade")
    assert "not run: needs 1,048,576 tokens of context, the model has 4,096" in said.stdout


def test_the_list_names_every_row():
    said = run("--list").stdout
    for word in (
        "base/agieval",
        "base/longbench_v2",
        "instruct/toolathlon",
        "needle_1m",
        "lambada",
    ):
        assert word in said
    assert said.count("runs with") + said.count("needs ") + said.count("runs here:") >= 46


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "nothing"], "no task 'nothing'"),
        (["--resume", "--regrade"], "one after the other"),
        (["--plot", "nowhere/bars.png"], "there is no folder nowhere"),
        (["--effort", "huge"], "effort = 'huge'"),
        (["--data", "apex"], "TASK=FILE"),
        (["--model", "x"], "--model"),
        (["--suite", "apex", "--data", "apex=missing.jsonl"], "no file"),
    ],
)
def test_options_that_are_wrong(words, message, tmp_path):
    said = run("nano", "--out", tmp_path / "out", *words)
    assert said.exit_code == 2 and message in said.output
    assert not (tmp_path / "out").exists()


def test_a_url_without_a_server(tmp_path):
    said = run("http://127.0.0.1:9", "--out", tmp_path / "out")
    assert said.exit_code == 2 and "cannot be reached" in said.output


SLOW = """
import sys, time
from pathlib import Path
from eval.fake import Fake
from dsv4.cli import scores
from dsv4.eval.suites import suite_of

class Slow(Fake):
    def generate(self, ask):
        time.sleep(float(sys.argv[2]) if len(self.asked) > 3 else 0.01)
        return super().generate(ask)

chosen = scores.Chosen(["copy"], 40, 0, None, None, {}, False, None)
try:
    scores.ask_all(
        chosen, chosen.suite(), Slow(), None, Path(sys.argv[1]), resume=False, concurrency=2
    )
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("presses", "reply"), [(1, 0.5), (2, 600)])
def test_control_c(tmp_path, presses, reply):
    """Once: what is under way is finished. Twice: not even that."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = [sys.executable, "-c", SLOW, str(tmp_path), str(reply)]
    log = tmp_path / "samples.jsonl"
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                if log.exists() and log.read_bytes().count(b"\n") > 4:
                    break
                time.sleep(0.01)
            for _ in range(presses):
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
            before = log.read_bytes()
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Ctrl-C again ends at once" in said and ("ended at once" in said) == (presses == 2)
    assert process.returncode == 130 and "--resume goes on" in said
    lines = log.read_bytes().splitlines()
    assert 5 <= len(lines) < 30 and all(json.loads(line) for line in lines)
    assert log.read_bytes().startswith(before)
