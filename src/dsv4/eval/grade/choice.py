"""The letter of a multiple choice: as it is stated, or alone on the first or the last line.

Statements are sentences that say which it is (“the answer is B”, “答案是B”, a box); what asks,
denies or offers two letters states none. Marks around a letter (**B**, $B$, [B], “B”) are layout.
"""

from __future__ import annotations

import re

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed
from dsv4.eval.grade.boxed import boxes

MARKS = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathsf|mbox)\s*\{([^{}]*)\}|\\[()\[\]]|\*+"
    r"|[\"“”‘’'`$]+([A-Za-z])[\"“”‘’'`$]+"
)
BRACKETS = str.maketrans("（）[]【】〔〕", "()()()()")
END = r"(?=\)|\s*[.。,，;；!！]?\s*(?:\n|\Z))"  # a small letter stands there, or it is a word
NAME = r"(?:[A-Z]|[a-z]" + END + r")(?![A-Za-z0-9'’+#_]|-[A-Za-z0-9])"
LETTER = rf"\(?\s*({NAME})\)?(?!\s*[?？])"
MORE = (
    r"(\s*(?:,|/|&|、|，|\bor\b|\band\b|或|和|及|与)\s*(?:(?:option|choice)\s+)?\(?" + NAME + r")?"
)
WORD = r"(?!(?<=[AI])\s+(?!(?:because|since|as|for|and|or|which|that|by|due|given|from|is)\b)[a-z])"
SURELY = r"(?:(?:clearly|definitely|probably|(?:most )?likely|therefore|thus|indeed|simply)\s+)?"
IS = r"\s*(?i:is|:|=|would be|should be|must be|will be)\s*:?\s*(?i:" + SURELY + ")"
OPTION = r"(?i:(?:option|choice|letter)\s+)?"
NOUN = (
    r"(?i:\banswer(?:\s+to\s+(?:the|this|that)\s+(?:question|problem))?|\bsolution"
    r"|\b(?:correct|right|best|final|my) (?:option|choice|letter))"
)
STATED = tuple(
    re.compile(pattern)
    for pattern in (
        NOUN + IS + OPTION + LETTER + WORD + MORE,
        r"(?i:\b(?:option|choice))\s+"
        + LETTER
        + r"()(?i:\s+is\s+(?:the\s+)?(?:correct|right|best))",
        r"(?i:\bI(?:'d|’d| would| will|'ll)? (?:choose|pick|select|go with))\s+"
        + OPTION
        + LETTER
        + WORD
        + MORE,
        r"(?i:\bit(?:'s|’s| is| should be))\s+" + OPTION + LETTER + r"()(?=\s*(?:[.!]|\Z))",
        r"<answer>\s*" + LETTER + r"\s*()</answer>",
        r"(?:答案|正确选项)\s*(?:应该|应|就)?(?:是|为|选|：|:)\s*(?:选项)?\s*" + LETTER + MORE,
        r"(?<![不能非])选(?:择|的是)?\s*[:：]?\s*"
        + LETTER
        + r"(?!\s*(?![项或和及与是为因故])[一-鿿])"
        + MORE,
        r"选项\s*" + LETTER + r"()\s*(?:是)?正确(?!吗)",
        r"(?<![和或、与及A-Z])" + LETTER + r"()\s*项\s*(?:是)?正确(?!吗)",
    )
)
BOXED = re.compile(r"\(?([A-Za-z])\)?\.?|\(([A-Z])\).*|([A-Z])[.:)].*", re.DOTALL)
BARE = re.compile(
    r"(?i:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)\s+)?\(?([A-Za-z])\)?[.:。]?"
)
LABELLED = re.compile(r"\(?([A-Z])(?:[).:]|\s[-–—])(?:\s.*)?")
FOLLOWED = re.compile(r"([A-Z])\s.+")
DENIED = re.compile(r"\b(?:wrong|incorrect|false|not|no)\b|n't\b|n’t\b|[?？]", re.IGNORECASE)
ANOTHER = re.compile(
    r"(?:\b(?:or|and)\b|[,/&])\s*\(?[A-Z]\b(?!['’])|(?<![A-Za-z'’])[B-HJ-Z](?![A-Za-z'’])"
)


def letter(target: str, answer: Answer) -> Verdict:
    """`target` is the letter. Stated answers count, and a line that is a letter; else a first or
    last line that begins with one (and what it stands for). Two different ones are none."""
    text = _unmarked(answer.text)
    stated = [match for pattern in STATED for match in pattern.finditer(text)]
    if several := next((match[0] for match in stated if match[2]), None):
        return unparsed(f"several letters: {several!r}")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ends = [lines[0], lines[-1]] if lines else []
    found = [match[1] for match in stated] + _in_boxes(answer.text)
    found += [match[1] for line in ends if (match := BARE.fullmatch(line))]
    if not found:
        begun = [name for line in lines if (name := _beginning(line, len(lines) == 1))]
        if not set(begun) <= {_beginning(line, len(lines) == 1) for line in ends}:
            return unparsed(f"several letters: {answer.text[:60]!r}")
        found = begun
    if not found:
        return unparsed(f"no letter is stated: {answer.text[:60]!r}")
    return _one(target, [name.upper() for name in found])


def _unmarked(text: str) -> str:
    """Without what stands around letters for layout alone."""
    return MARKS.sub(lambda match: match[1] or match[2] or "", text).translate(BRACKETS)


def _in_boxes(text: str) -> list[str]:
    found = (BOXED.fullmatch(_unmarked(one).strip()) for one in boxes(text))
    return [match[1] or match[2] or match[3] for match in found if match]


def _beginning(line: str, alone: bool) -> str:
    """The letter that a line begins with; `alone`: it is all of the reply, and may go on with
    words. Empty where there is none, or where the rest denies it or names another."""
    if match := LABELLED.fullmatch(line):
        return match[1]
    if not alone or not (match := FOLLOWED.fullmatch(line)):
        return ""
    rest = line[match.end(1) :]
    if DENIED.search(rest) or ANOTHER.search(rest) or match[1] in "AI":  # the words A and I
        return ""
    return match[1]


def _one(target: str, found: list[str]) -> Verdict:
    if len(set(found)) > 1:
        return unparsed(f"{len(set(found))} answers: {', '.join(dict.fromkeys(found))}")
    return decided(found[0] == target, f"said {found[0]}, right is {target}")
