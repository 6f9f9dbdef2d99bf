"""Arithmetic, column by column, as it is done on paper."""

from __future__ import annotations

import random

from dsv4.data.sources.procedural.problem import Problem


def _number(rng: random.Random, most: int = 4) -> int:
    """Few digits more often than many; never a leading zero."""
    digits = min(rng.randint(1, most), rng.randint(1, most))
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _ask(rng: random.Random, sign: str, a: int, b: int) -> str:
    asked = f"{a} {sign} {b}"
    forms = ("What is {}?", "{} =", "Calculate {}.", "How much is {}?", "Work out {}.", "{} = ?")
    return rng.choice(forms).format(asked)


def add(rng: random.Random) -> Problem:
    """Two numbers, with carries."""
    a, b = _number(rng), _number(rng)
    steps, carry = [], 0
    for place in range(len(str(max(a, b)))):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = x + y + carry
        parts = f"{x} + {y}" + (f" + {carry}" if carry else "")
        carry, written = divmod(total, 10)
        steps.append(
            f"{parts} = {total}: write {written}" + (f", carry {carry}." if carry else ".")
        )
    if carry:
        steps.append(f"Write {carry}.")
    key = f"add {min(a, b)} {max(a, b)}"
    return Problem(key, _ask(rng, "+", a, b), f"{a} + {b} = {a + b}.", " ".join(steps))


def subtract(rng: random.Random) -> Problem:
    """The smaller from the larger, with borrows."""
    b, a = sorted((_number(rng), _number(rng)))
    steps, borrow = [], 0
    for place in range(len(str(a))):
        x, y = a // 10**place % 10, b // 10**place % 10
        parts = f"{x} - {y}" + (f" - {borrow}" if borrow else "")
        value = x - y - borrow
        if value < 0:
            steps.append(f"{parts} is below 0: borrow 10, write {value + 10}.")
        else:
            steps.append(f"{parts} = {value}: write {value}.")
        borrow = int(value < 0)
    return Problem(
        f"subtract {a} {b}", _ask(rng, "-", a, b), f"{a} - {b} = {a - b}.", " ".join(steps)
    )


def multiply(rng: random.Random) -> Problem:
    """By one digit or two, place by place."""
    a, b = _number(rng, 3), _number(rng, 2)
    places = [digit * 10**place for place, digit in enumerate(map(int, str(a)[::-1])) if digit]
    steps = ""
    if len(places) > 1:
        parts = [(part, part * b) for part in reversed(places)]
        products = " ".join(f"{part} * {b} = {product}." for part, product in parts)
        steps = f"{products} {' + '.join(str(product) for _, product in parts)} = {a * b}."
    key = f"multiply {min(a, b)} {max(a, b)}"
    return Problem(key, _ask(rng, "*", a, b), f"{a} * {b} = {a * b}.", steps)


def chain(rng: random.Random) -> Problem:
    """Three to six small terms, from left to right."""
    total = rng.randint(1, 50)
    asked, steps = str(total), []
    for _ in range(rng.randint(2, 5)):
        term = rng.randint(1, 50)
        sign, after = (
            ("+", total + term) if term > total or rng.random() < 0.6 else ("-", total - term)
        )
        asked += f" {sign} {term}"
        steps.append(f"{total} {sign} {term} = {after}.")
        total = after
    question = rng.choice(("What is {}?", "{} =", "Calculate {}.")).format(asked)
    return Problem(f"chain {asked}", question, f"{asked} = {total}.", " ".join(steps))


def compare(rng: random.Random) -> Problem:
    """Which of two numbers is larger or smaller."""
    a, b = _number(rng), _number(rng)
    b = b + 1 if a == b else b
    word, value = rng.choice((("larger", max(a, b)), ("smaller", min(a, b))))
    question = f"Which number is {word}, {a} or {b}?"
    return Problem(f"compare {min(a, b)} {max(a, b)}", question, f"{value} is {word}.")


def count_on(rng: random.Random) -> Problem:
    """The next numbers of a series with a fixed step."""
    first, step, shown = _number(rng, 3), rng.randint(1, 12), rng.randint(4, 8)
    series = [first + step * n for n in range(shown + 3)]
    question = f"Continue with three more numbers: {', '.join(map(str, series[:shown]))}"
    answer = ", ".join(map(str, series[shown:]))
    return Problem(f"count {first} {step}", question, answer, f"Each number is {step} more.")
