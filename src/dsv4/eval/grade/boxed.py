r"""Mathematics: what stands in \boxed{}, as the same expression or the same number.

With the package math-verify (extra `eval`) expressions are the same where sympy says so; without
it where their text is, or their value as a fraction of decimal numbers.
"""

from __future__ import annotations

import re
import threading
from fractions import Fraction

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed

NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|[-+]?\.[0-9]+")
FRACTION = re.compile(r"([-+]?)\\frac\{([-+]?[0-9.]+)\}\{([-+]?[0-9.]+)\}|([-+]?[0-9.]+)/([0-9.]+)")
LAYOUT = re.compile(r"\\(?:left|right|!|,|;|:| |displaystyle|quad|qquad)(?![a-zA-Z])|[$\s~]")
LARGEST = 1000  # characters of an answer that a library may be given


def boxed(target: str, answer: Answer) -> Verdict:
    """`target` is the answer without its box. Two boxes that differ are none."""
    found = boxes(answer.text)
    if not found:
        return unparsed("no whole \\boxed{…}")
    if not all(one.strip() for one in found):
        return unparsed("an empty \\boxed{}")
    if len({normal(one) for one in found}) > 1:
        return unparsed(f"{len(found)} boxes differ: {', '.join(found)[:80]}")
    return decided(same(target, found[-1]), f"said {found[-1][:60]!r}, right is {target[:60]!r}")


def number(target: str, answer: Answer) -> Verdict:
    """`target` is a number. What stands behind “answer is”, “####” or an equals sign at the end
    counts, or a reply that is one number; two different statements are none."""
    text = answer.text
    stated = re.findall(
        r"(?i:answer(?: is|:)|####)\s*:?\s*[$\\(]*(" + NUMBER.pattern + r")(?![0-9])", text
    )
    if not stated and (found := boxes(text)):
        stated = [one for one in found if NUMBER.fullmatch(one.strip(" $"))]
    if not stated and (last := _last_line(text)):
        stated = [last]
    values = {value(one) for one in stated}
    if not values or None in values:
        return unparsed(f"no number is stated: {text[-60:]!r}")
    if len(values) > 1:
        return unparsed(f"{len(values)} numbers are stated: {', '.join(stated)[:60]}")
    return decided(values == {value(target)}, f"said {stated[-1]}, right is {target}")


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
    left, right = normal(target), normal(said)
    if left == right:
        return True
    a, b = value(left), value(right)
    if a is not None and b is not None:
        return a == b
    return said.isascii() and len(said) <= LARGEST and _verified(target, said)


def normal(text: str) -> str:
    """One spelling of what is written in several ways."""
    text = text.strip().strip("$").rstrip(".")
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|mbox)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*([0-9a-z])", r"\\sqrt{\1}", text)
    text = LAYOUT.sub("", text.replace("\\ ", ""))
    text = re.sub(r"\^\{?\\circ\}?|\\degree|°", "", text)
    text = re.sub(r"\\?%", "", text)
    text = re.sub(r"(?<=[0-9])\{?,\}?(?=[0-9]{3}(?![0-9]))", "", text) if _grouped(text) else text
    if re.fullmatch(r"[a-zA-Z]=[^=]+", text):
        text = text[2:]
    return text


def value(text: str) -> Fraction | None:
    """The number that a text is, in ASCII's digits; None for any other text."""
    text = text.strip()
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


def _grouped(text: str) -> bool:
    """Whether the commas are those between thousands, not between the members of a list."""
    return re.fullmatch(r"[-+]?[0-9]{1,3}(?:\{?,\}?[0-9]{3})+(?:\.[0-9]+)?", text) is not None


def _last_line(text: str) -> str | None:
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    tail = lines[-1].rpartition("=")[2].strip(" $*")
    return tail if NUMBER.fullmatch(tail) else None


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
        return bool(verify(gold, given, timeout_seconds=limit, raise_on_error=False))
    except Exception:  # whatever an answer makes a library raise, it is not the same
        return False
