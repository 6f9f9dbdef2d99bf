"""pass@1: the program of an answer, run with its tests in a process of its own (see sandbox)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import dedent
from typing import Any

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed
from dsv4.eval.sandbox import run

FENCE = re.compile(
    r"^[ \t]*(```|~~~)[ \t]*([\w+-]*)[ \t]*\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL
)
CLOSED = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)


def python(target: Mapping[str, Any], answer: Answer) -> Verdict:
    """`target`: `tests` to run behind the program; `before` stands before what is gone on with
    (`continues`: the answer goes on with it, else it is a whole program); `seconds`."""
    text = answer.text.replace("\r\n", "\n")
    program = (_continuation if target.get("continues") else _program)(text)
    if not program.strip():
        return unparsed("no program, or several: one block of code is asked for")
    source = f"{target.get('before', '')}{program}\n"
    outcome = run(source, target["tests"], seconds=float(target.get("seconds", 10.0)))
    return decided(outcome.passed, outcome.reason)


def _program(text: str) -> str:
    """The one block of Python, or the whole text where it has no fence."""
    found = {dedent(block) for block in _blocks(text)}
    if len(found) == 1:
        return found.pop()
    return "" if found or CLOSED.search(text) else text


def _continuation(text: str) -> str:
    """What goes on with a program: the one block of it, or all before a fence that ends it."""
    found = _blocks(text)
    return found[0] if len(found) == 1 else CLOSED.split(text, maxsplit=1)[0]


def _blocks(text: str) -> list[str]:
    return [
        str(body)
        for _, word, body in FENCE.findall(text)
        if word.lower() in ("", "python", "py", "python3")
    ]
