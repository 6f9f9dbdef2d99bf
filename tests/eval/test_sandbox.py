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

SPAWN = """
import _posixsubprocess, os
r, w = os.pipe()
ends = [-1] * 6 + [r, w, False, False, 0, None, None, None, -1, None, False]
_posixsubprocess.fork_exec([b"true"], [b"/bin/true"], True, (w,), None, None, *ends)
"""
PATCHES = [
    "import builtins\nbuiltins.exec = lambda *a: None",
    "import builtins\nbuiltins.compile = lambda *a: 'pass'",
    "import __main__\n__main__.exec = lambda *a: None",
    "import threading\nthreading.Thread.join = lambda self: None",
    "import atexit, os\natexit.register(os._exit, 0)",
    "import sys\nsys._getframe(1).f_locals['tests'] = 'pass'",
]


@pytest.mark.parametrize("program", PATCHES)
def test_the_tests_are_run_whatever_the_program_replaces(program):
    outcome = run(program, "assert False, 'they ran'", seconds=3)
    assert not outcome.passed and "they ran" in outcome.reason, outcome


def test_a_program_that_says_itself_that_it_passed():
    said = "import sys\nsys._getframe(1).f_locals['said'].append('')"
    assert not run(said, "assert False").passed


def test_threads_are_no_processes():
    program = "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()"
    assert run(program, "assert not t.is_alive()").passed


def test_a_program_and_its_tests():
    assert run("def f(x):\n    return x", "assert f(3) == 3").passed
    failed = run("def f(x):\n    return x", "assert f(3) == 4, 'not four'")
    assert not failed.passed and failed.reason == "AssertionError: not four"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("import subprocess\nsubprocess.run(['true'])", "PermissionError"),
        ("import os\nos.fork()", "PermissionError"),
        ("import os\nos.system('true')", "PermissionError"),
        (SPAWN, "PermissionError"),
        ("import sys\nsys.settrace(print)", "PermissionError"),
        ("import _socket\n_socket.socket()", "PermissionError"),
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


@pytest.mark.parametrize("program", ["while True: pass", "import time\ntime.sleep(60)"])
def test_no_end(program):
    """What cannot pass needs no room for a slow machine."""
    outcome = run(program, "pass", seconds=0.4)
    assert not outcome.passed and outcome.reason == "no end after 0.4 s", outcome


def test_output_and_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "key")
    assert run("print('x' * 10_000_000)", "import os\nassert 'SECRET' not in os.environ").passed
