"""The command as a process of its own, with the streams that a shell would give it."""

import os
import subprocess
import sys


def command(*words):
    return [sys.executable, "-c", "from dsv4.cli import main; main()", *map(str, words)]


def environment(**changes):
    source = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **changes}


def call(*words, given=b"", env=None, **options):
    """Runs to its end; stdout and stderr as bytes."""
    if "stdin" not in options:
        options["input"] = given
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | options
    return subprocess.run(command(*words), env=env or environment(), **options)


def one_line(done, code=2):
    """The single line that a wrong call leaves on stderr."""
    text = done.stderr.decode("utf-8")
    assert done.returncode == code and text.count("\n") == 1, text
    assert text.startswith("dsv4: ")
    return text
