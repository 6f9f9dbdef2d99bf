"""Runs a program of a model and its tests in a process without network, within bounds.

The process has its own folder, no environment, limits on time, memory and files, an audit hook
that refuses sockets, processes, native code and tracing, and where the system lets it a network of
its own that leads nowhere and a filter that refuses the system's calls for new processes and
sockets. It passes only if the tests ran to their end, by an `exec` that no program can replace: it
then answers with a word that was read, before the program began, from a pipe that is closed since.
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
           "sys._current_frames", "gc.get_objects", "gc.get_referrers",
           "sys.settrace", "sys.setprofile", "sys.monitoring")
CALLS = {"x86_64": (0xC000003E, (57, 58, 59, 322, 41, 101), 56),  # fork vfork exec* socket ptrace
         "aarch64": (0xC00000B7, (221, 281, 198, 117), 220)}  # and clone, which begins threads too
def seal():
    import ctypes, struct
    arch, refused, clone = CALLS[os.uname().machine]
    refuse, allow, unknown = 0x50000 | 1, 0x7FFF0000, 0x50000 | 38
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, refuse), (0x20, 0, 0, 0)]
    code += [(0x35, 0, 1, 0x40000000), (0x06, 0, 0, refuse)]  # calls of another width
    for call in refused:
        code += [(0x15, 0, 1, call), (0x06, 0, 0, refuse)]
    code += [(0x15, 0, 1, 435), (0x06, 0, 0, unknown)]  # clone3, whose flags no filter can read
    code += [(0x15, 0, 3, clone), (0x20, 0, 0, 16), (0x45, 1, 0, 0x10000), (0x06, 0, 0, refuse)]
    code += [(0x06, 0, 0, allow)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    filter = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(text)))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)
    libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(filter)), 0, 0)
def bound(seconds, memory, output):
    import resource
    for kind, most in (("CPU", seconds), ("AS", memory), ("FSIZE", output), ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (most, most))
    import ctypes
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # user and network namespaces
    seal()
def refuse(event, args, refused=REFUSED):
    if event.startswith(refused):
        raise PermissionError(event + " is not allowed here")
def program(source, tests, said, exec=exec, compile=compile):
    # in a thread, from whose frames the word cannot be reached
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
