"""Runs a program of a model and its tests in a process without network, within bounds.

The process has its own folder, no environment, limits on time, memory, files and processes, an
audit hook that refuses sockets, processes and native code, and where the system lets it a network
of its own that leads nowhere. It passes only if the tests ran to their end: it then answers with a
word that was read, before the program began, from a pipe that is closed since.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import NamedTuple

MEMORY = 2 << 30  # bytes of address space
OUTPUT = 16 << 20  # bytes of a file

HARNESS = r"""
import os, sys, threading
REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
           "os.fork", "os.kill", "ctypes.", "pty.", "ftplib.", "urllib.", "http.", "smtplib.",
           "sys._current_frames", "gc.get_objects", "gc.get_referrers")
def bound(seconds, memory, output):
    import resource
    for kind, most in (("CPU", seconds), ("AS", memory), ("FSIZE", output), ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (most, most))
    import ctypes
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # user and network namespaces
def refuse(event, args, refused=REFUSED):
    if event.startswith(refused):
        raise PermissionError(event + " is not allowed here")
def program(source, tests, said):  # in a thread, from whose frames the word cannot be reached
    try:
        space = {"__name__": "__main__"}
        exec(compile(source, "<answer>", "exec"), space)
        exec(compile(tests, "<tests>", "exec"), space)
        said.append("")
    except BaseException as error:
        said.append(type(error).__name__ + ": " + str(error))
def main():
    word, source, tests = sys.stdin.buffer.read().split(b"\0")
    answers, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    write, leave = os.write, os._exit
    for number in (0, 1, 2):
        os.dup2(null, number)
    try:
        bound(*map(int, sys.argv[1:]))
    except Exception:
        pass
    sys.addaudithook(refuse)
    said = []
    thread = threading.Thread(target=program, args=(source, tests, said))
    thread.start()
    thread.join()
    if said == [""]:
        write(answers, b"+" + word)
        leave(0)
    write(answers, b"-" + "".join(said[:1]).encode("utf-8", "replace")[:400])
    leave(1)
main()
"""


class Outcome(NamedTuple):
    """Whether the tests passed; the reason in one line."""

    passed: bool
    reason: str


def run(source: str, tests: str, *, seconds: float = 10.0, memory: int = MEMORY) -> Outcome:
    """Run the program, then the tests, in the same namespace."""
    if "\0" in source or "\0" in tests:
        return Outcome(False, "the program holds a zero byte")
    word = secrets.token_hex(16).encode()
    given = b"\0".join((word, source.encode("utf-8", "replace"), tests.encode("utf-8", "replace")))
    limits = [str(int(seconds) + 1), str(memory), str(OUTPUT)]
    with tempfile.TemporaryDirectory(prefix="dsv4-answer-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", HARNESS, *limits],
            cwd=folder,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(given, timeout=seconds)
        except subprocess.TimeoutExpired:
            return Outcome(False, f"no end after {seconds:g} s")
        finally:
            _end(process)
    if said == b"+" + word:
        return Outcome(True, "the tests passed")
    if said[:1] == b"-":
        return Outcome(False, " ".join(said[1:].decode("utf-8", "replace").split())[:200])
    return Outcome(False, f"it ended before its tests did (status {process.returncode})")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever it started is ended, too."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
