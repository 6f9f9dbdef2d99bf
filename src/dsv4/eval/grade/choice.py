"""The letter of a multiple choice: as it is stated, or alone."""

from __future__ import annotations

import re

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed

LETTER = r"\(?\**\s*([A-Z])\b(?!['’])\**\)?"
STATED = (
    re.compile(r"\\boxed\{\s*(?:\\text(?:bf)?\{)?\(?([A-Z])\)?\}?\s*\}"),
    re.compile(
        r"(?i:\banswer)\**\s*(?i:is|:|=|should be|would be)\s*:?\s*(?i:option|choice)?\s*" + LETTER
    ),
    re.compile(r"(?i:\b(?:option|choice))\s+" + LETTER + r"(?i:\s+is\s+(?:the\s+)?correct)"),
)
ALONE = re.compile(r"\s*\(?\**([A-Z])\**[).:]?(?:\s.*)?\Z")
BARE = re.compile(r"\s*\(?\**([A-Z])\**[).:]?\s*")


def letter(target: str, answer: Answer) -> Verdict:
    """`target` is the letter. Stated answers count, then a reply that is a letter (and, on the same
    line, what it stands for); two different ones are none."""
    text = answer.text
    for pattern in STATED:
        if found := [match[1] for match in pattern.finditer(text)]:
            return _one(target, found)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and (match := ALONE.match(lines[0])):
        if (
            match[1] in "AI"
            and not BARE.fullmatch(lines[0])
            and not re.match(r"\s*\(?\**[AI]\**[).:]", lines[0])
        ):
            return unparsed(f"no letter is stated: {text[:60]!r}")  # the word A or I
        if re.search(r"(?<![A-Za-z'’])[B-HJ-Z](?![A-Za-z'’])", lines[0][match.end(1) :]):
            return unparsed(f"several letters: {text[:60]!r}")
        return _one(target, [match[1]])
    if lines and (match := BARE.fullmatch(lines[-1])):
        return _one(target, [match[1]])
    return unparsed(f"no letter is stated: {text[:60]!r}")


def _one(target: str, found: list[str]) -> Verdict:
    if len(set(found)) > 1:
        return unparsed(f"{len(set(found))} answers: {', '.join(dict.fromkeys(found))}")
    return decided(found[0] == target, f"said {found[0]}, right is {target}")
