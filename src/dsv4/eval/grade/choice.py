"""The letter of a multiple choice: as it is stated, or alone."""

from __future__ import annotations

import re

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed

LETTER = r"[（(]?\**\s*([A-Z])\b(?!['’+#_])\**[)）]?"
MORE = r"(\s*(?:,|/|&|、|\bor\b|\band\b|或|和)\s*[（(]?\**[A-Z]\b(?!['’]))?"
WORD = r"(?!(?<=[AI])\s+(?!(?:because|since|as|for|and|or|which|that|by|due|given|from|is)\b)[a-z])"
IS = r"\**\s*(?i:is|:|=|should be|would be|must be)\s*:?\s*(?i:option|choice)?\s*"
STATED = tuple(
    re.compile(pattern)
    for pattern in (
        r"\\boxed\{\s*(?:\\text(?:bf)?\{)?\(?([A-Z])\)?\}?\s*\}()",
        r"(?i:\banswer|\b(?:correct|right|best) (?:option|choice|letter))"
        + IS
        + LETTER
        + WORD
        + MORE,
        r"(?i:\b(?:option|choice))\s+"
        + LETTER
        + r"()(?i:\s+is\s+(?:the\s+)?(?:correct|right|best))",
        r"(?i:\bI (?:choose|pick|select))\s+(?i:option|choice)?\s*" + LETTER + WORD + MORE,
        r"(?i:\bit(?:'s|’s| is| should be))\s+(?i:option|choice)?\s*" + LETTER + r"()(?=[.!]|$)",
        r"(?:答案|正确选项)\**\s*(?:应该|应)?(?:是|为|选|：|:)\s*" + LETTER + MORE,
    )
)
ALONE = re.compile(r"\s*\(?\**([A-Z])\**[).:]?(?:\s.*)?\Z")
BARE = re.compile(r"\s*\(?\**([A-Z])\**[).:]?\s*")


def letter(target: str, answer: Answer) -> Verdict:
    """`target` is the letter. Stated answers count, then a reply that is a letter (and, on the same
    line, what it stands for); two different ones are none."""
    text = answer.text
    stated = [match for pattern in STATED for match in pattern.finditer(text)]
    if several := next((match[0] for match in stated if match[2]), None):
        return unparsed(f"several letters: {several!r}")
    if stated:
        return _one(target, [match[1] for match in stated])
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
