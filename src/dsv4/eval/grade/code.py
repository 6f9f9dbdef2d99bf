"""pass@1: the program of an answer, run with its tests in a process of its own (see sandbox)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed
from dsv4.eval.sandbox import run

FENCE = re.compile(
    r"^[ \t]*```[ \t]*([\w+-]*)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL
)


def python(target: Mapping[str, Any], answer: Answer) -> Verdict:
    """`target`: `tests` to run behind the program; `before` stands before what is gone on with
    (`continues`: the answer goes on with it, else it is a whole program); `seconds`."""
    program = answer.text if target.get("continues") else _program(answer.text)
    if not program.strip():
        return unparsed("no program, or several: one block of code is asked for")
    source = f"{target.get('before', '')}{program}\n"
    outcome = run(source, target["tests"], seconds=float(target.get("seconds", 10.0)))
    return decided(outcome.passed, outcome.reason)


def _program(text: str) -> str:
    """The one block of Python, or the whole text where it has no fence."""
    found = [
        body
        for word, body in FENCE.findall(text)
        if word.lower() in ("", "python", "py", "python3")
    ]
    if len(found) == 1:
        return str(found[0])
    return "" if found or "```" in text else text
