"""Programs of a model run within bounds, and cannot say of themselves that they passed."""

import pytest

from dsv4.eval.sandbox import run

FRAMES = """
import sys
frame = sys._getframe()
while frame:
    assert "word" not in frame.f_locals
    frame = frame.f_back
done
"""


def test_a_program_and_its_tests():
    assert run("def f(x):\n    return x", "assert f(3) == 3").passed
    failed = run("def f(x):\n    return x", "assert f(3) == 4, 'not four'")
    assert not failed.passed and failed.reason == "AssertionError: not four"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("while True: pass", "no end after"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("import subprocess\nsubprocess.run(['true'])", "PermissionError"),
        ("import os\nos.fork()", "PermissionError"),
        ("import os\nos.system('true')", "PermissionError"),
        ("x = bytearray(1 << 40)", "MemoryError"),
        ("def f(x): return f(x)\nf(1)", "RecursionError"),
        ("import os\nos._exit(0)", "ended before"),
        ("f = 1 +", "SyntaxError"),
        ("f = '\0'", "zero byte"),
        ("import __main__\n__main__.word", "AttributeError"),
        (FRAMES, "NameError: name 'done'"),
    ],
)
def test_bounds(program, reason):
    outcome = run(program, "pass", seconds=3)
    assert not outcome.passed and reason in outcome.reason, outcome


def test_output_and_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "key")
    assert run("print('x' * 10_000_000)", "import os\nassert 'SECRET' not in os.environ").passed
