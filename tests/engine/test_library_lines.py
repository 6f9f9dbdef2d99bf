"""What xgrammar prints of itself goes to the log; what others print stays where it was."""

import subprocess
import sys

import pytest

from dsv4.ops import native

COMPILE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s")
from dsv4.checkpoint.load import packaged
from dsv4.engine.constraint import Constraints
from dsv4.tokenizer import Tokenizer
own = Constraints(Tokenizer.load(packaged()), 8192, [1])
schema = {"type": "string", "minLength": 2, "maxLength": 9, "pattern": "^a+$"}
own.compile({"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}})
"""
SPEAK = """
import ctypes
library = ctypes.CDLL("libstdc++.so.6")
insert = library._ZSt16__ostream_insertIcSt11char_traitsIcEERSt13basic_ostreamIT_T0_ES6_PKS3_l
insert.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_long]
insert.restype = ctypes.c_void_p
cerr = ctypes.addressof(ctypes.c_char.in_dll(library, "_ZSt4cerr"))
for text in TEXTS:
    insert(cerr, text, len(text))
"""
OWN = b"[12:34:56] /project/cpp/fsm.cc:7: Warning: in pieces\n"

pytestmark = pytest.mark.skipif(native.module() is None, reason="needs the native module")


def ran(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_a_terminal_stays_clean():
    found = ran(COMPILE)
    assert found.stderr == b""
    lines = found.stdout.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("dsv4.engine: a grammar: pattern combined with")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of libstdc++")
def test_what_others_say_passes():
    texts = [b"[W1125 12:34:56.7 a.cpp:1] Warning: theirs\n", b"no end", b" yet\n\n", OWN[:5]]
    texts += [OWN[5:40], OWN[40:], b"[12:34:56] theirs, too\n", b"[", b"1]\n", b"last"]
    found = ran(f"TEXTS = {texts}" + COMPILE + SPEAK)
    assert found.stderr == b"".join(texts).replace(OWN, b"")
