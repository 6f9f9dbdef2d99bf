r"""Mathematics: what stands in \boxed{}, as the same expression or the same number.

With the package math-verify (extra `eval`) expressions are the same where sympy says so; without
it where their text is, or their value as a fraction of decimal numbers.
"""

from __future__ import annotations

import re
import threading
from fractions import Fraction

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed

NUMBER = re.compile(
    r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?|[-+]?\.[0-9]+"
)
FRACTION = re.compile(r"([-+]?)\\frac\{([-+]?[0-9.]+)\}\{([-+]?[0-9.]+)\}|([-+]?[0-9.]+)/([0-9.]+)")
LAYOUT = re.compile(r"\\(?:left|right|!|,|;|:| |displaystyle|quad|qquad)(?![a-zA-Z])|[$\s~]")
SIGNS = {  # what is not ASCII and means the same; digits of other scripts are not among them
    ord(sign): text
    for sign, text in {
        **{"−": "-", "\u00a0": " ", "\u202f": " ", "×": r"\times ", "·": r"\cdot "},
        **{"π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt", "²": "^{2}", "³": "^{3}"},
    }.items()
}
SPACE = r"(?:\\[ ,;:!]|\\q?quad|[\s~])+"
GROUPED = re.compile(r"([-+]?[0-9]{1,3})((?:(?:\{,\}|,|" + SPACE + r")[0-9]{3})+)(\.[0-9]+)?")
CONTINENTAL = re.compile(
    r"([-+]?[0-9]{1,3}(?:\.[0-9]{3})+),([0-9]+)|([-+]?[0-9]{1,3}(?:\.[0-9]{3}){2,})"
)
MIXED = re.compile(r"([-+]?)([0-9]+)(?:␣([0-9]+)/|\\frac\{([0-9]+)\}\{)([0-9]+)\}?")
PARTED = re.compile(r"[0-9]" + SPACE + r"[0-9]")
UNIT = re.compile(
    r"(?<=[0-9})])(?:" + SPACE + r")?\\(?:text|mathrm|mbox|textrm)\{([A-Za-z\s/^0-9.]+)\}$"
)
NAMED = re.compile(r"([a-zA-Z])=([^=]+)")
LEFT = re.compile(
    r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-z0-9,]+\))?"
)  # a name, or a function's value
BASE = re.compile(r"(?<=[0-9A-F])_\{?(?!10\b)([0-9]+)\}?$")
RELATION = re.compile(r"\\(?:leq?|geq?|neq?|lt|gt|ll|gg|sim|pm|mp|not)(?![a-zA-Z])|[<>≤≥≠±∼]")
UNFINISHED = re.compile(r"\\[lc]?dots|\.\.\.|…")
LARGE = re.compile(r"\b(?:hundred|thousand|[mb]illion|trillion|dozen|k|bn)\b")
WORDS = re.compile(r"(?<=[0-9} ])(?:\\[a-z]+\{)?\s*([A-Za-z ]+)")
NO_UNIT = re.compile(
    r"\b(?:hundred|thousand|[mb]illion|trillion|dozen|k|bn|is|not|or|and|wrong|incorrect|false)\b",
    re.IGNORECASE,
)
PRECISE = 12  # digits: a decimal is not the root that it comes near to
LARGEST = 1000  # characters of an answer that a library may be given


def boxed(target: str, answer: Answer) -> Verdict:
    """`target` is the answer without its box. Two boxes that differ are none."""
    found = boxes(answer.text)
    if not found:
        return unparsed("no whole \\boxed{…}")
    if not all(one.strip() for one in found):
        return unparsed("an empty \\boxed{}")
    if not all(same(found[0], one) for one in found[1:]):
        return unparsed(f"{len(found)} boxes differ: {', '.join(found)[:80]}")
    return decided(same(target, found[-1]), f"said {found[-1][:60]!r}, right is {target[:60]!r}")


def boxes(text: str) -> list[str]:
    """What stands in each whole box, from left to right; the inner of nested ones alone."""
    out = []
    for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0) if text[at - 1] != "\\" else 0
            at += 1
        if not depth:
            inner = text[match.end() : at - 1]
            if "\\boxed" not in inner:
                out.append(inner.strip())
    return out


def same(target: str, said: str) -> bool:
    """Whether two expressions are."""
    target, said = (one.translate(SIGNS).strip() for one in (target, said))
    if _apart(target, said):
        return False
    if normal(target) == normal(said):
        return True
    a, b = value(normal(target)), value(normal(said))
    if a is not None and b is not None:
        return a == b
    if PARTED.search(_ungrouped(target)) or PARTED.search(_ungrouped(said)):
        return False
    (left, unit), (right, other) = _unit(target), _unit(said)
    if unit and other and unit != other:
        return False
    a, b = value(normal(left)), value(normal(right))
    if a is not None and b is not None:
        return a == b
    return said.isascii() and len(said) <= LARGEST and _verified(target, said)


def normal(text: str) -> str:
    """One spelling of what is written in several ways."""
    text = _ungrouped(text.strip().strip("$").removeprefix("\\$").rstrip("."))
    text = re.sub(r"\\([dtc]?frac)\s*([0-9])\s+([0-9])(?![0-9])", r"\\\1{\2}{\3}", text)
    text = PARTED.sub(lambda match: f"{match[0][0]}␣{match[0][-1]}", text)
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|mathsf|bm|mbox)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*([0-9a-z])", r"\\sqrt{\1}", text)
    text = LAYOUT.sub("", text.replace("\\ ", ""))
    text = re.sub(r"\^\{?\\circ\}?|\\degree|°", "", text)
    text = re.sub(r"\\?%", "", text)
    if match := NAMED.fullmatch(text):
        return match[2]
    return text


def _ungrouped(text: str) -> str:
    """Without what stands between thousands, where the text is one number and no list."""
    if match := CONTINENTAL.fullmatch(text):
        return match[1].replace(".", "") + f".{match[2]}" if match[1] else text.replace(".", "")
    if match := GROUPED.fullmatch(text):
        return match[1] + re.sub(r"[^0-9]", "", match[2]) + (match[3] or "")
    return text


def _unit(text: str) -> tuple[str, str]:
    """An expression and the unit behind it."""
    match = UNIT.search(text)
    if match is None or NO_UNIT.search(match[1]):
        return text, ""
    return text[: match.start()], "".join(match[1].split()).lower()


def _apart(target: str, said: str) -> bool:
    """What sympy would take for the same: other names of a value, and letters in another order."""
    names = [NAMED.fullmatch(LAYOUT.sub("", one)) for one in (target, said)]
    if all(names) and len({name[1] for name in names if name}) == 2:
        return True
    if any(bool(form.search(target)) < bool(form.search(said)) for form in (UNFINISHED, BASE)):
        return True
    words = [" ".join(WORDS.findall(one)) for one in (target, said)]
    if NO_UNIT.search(words[1]) and not NO_UNIT.search(words[0]):
        return True
    sizes = [LARGE.findall(one.lower()) for one in words]
    bases = [BASE.findall(one) for one in (target, said)]
    if sizes[0] != sizes[1] or (all(bases) and bases[0] != bases[1]):
        return True
    if RELATION.match(said) and not RELATION.match(target):
        return True
    if (target[:1], said[:2]) == ("(", "\\{") or (target[:2], said[:1]) == ("\\{", "("):
        return True
    if "=" in said and "=" not in target and not _named(said):
        return True
    word = re.fullmatch(r"\\(?:text|textbf|mbox)\{[^{}]*\}|[A-Z]{2,}", target.strip("$ "))
    return word is not None and normal(target).casefold() != normal(said).casefold()


def _named(said: str) -> bool:
    """Whether an equation gives its right side a name, or another form of the same number."""
    first, *rest = (LAYOUT.sub("", side) for side in said.split("="))
    if LEFT.fullmatch(first):
        return True
    return not re.search("[a-zA-Z]", re.sub(r"\\[a-z]+", "", first)) and all(
        same(first, side) for side in rest
    )


def value(text: str) -> Fraction | None:
    """The number that a text is, in ASCII's digits; None for any other text."""
    text = text.strip()
    if match := MIXED.fullmatch(text):
        part = match[3] or match[4]
        if not int(match[5]) or int(part) >= int(match[5]):
            return None
        found = int(match[2]) + Fraction(int(part), int(match[5]))
        return -found if match[1] == "-" else found
    if match := FRACTION.fullmatch(text):
        over, under = (match[2], match[3]) if match[2] else (match[4], match[5])
        try:
            found = Fraction(over) / Fraction(under)
        except (ValueError, ZeroDivisionError):
            return None
        return -found if match[1] == "-" else found
    if len(text) > 400 or not NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


def _verified(target: str, said: str) -> bool:
    """What math-verify says, where it is installed."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return False
    main = threading.current_thread() is threading.main_thread()  # its time limit needs signals
    limit = 5 if main else None
    try:
        gold, given = (
            parse(f"\\boxed{{{one}}}", parsing_timeout=limit, raise_on_error=False)
            for one in (target, said)
        )
        near = {"timeout_seconds": limit, "raise_on_error": False, "float_rounding": PRECISE}
        return bool(verify(gold, given, **near))
    except Exception:  # whatever an answer makes a library raise, it is not the same
        return False
