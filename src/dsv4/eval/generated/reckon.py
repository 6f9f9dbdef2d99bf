"""Arithmetic by difficulty, calls in the right form, long chains, and the next of a series."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from dsv4.eval.generated.words import NAMES, PLACES
from dsv4.eval.task import Sample, user

COUNT = 50
CHANCE = {1: 1 / 19, 2: 1 / 199, 3: 1 / 1999, 4: 1 / 10_000, 5: 1 / 100_000}  # of its results
CALL_CHANCE = 0.0
ALONE = "Reply with the number alone."


def arithmetic(seed: int, level: int) -> Iterator[Sample]:
    """1–3: sums of so many digits; 4: products of two digits; 5: three terms with a product."""
    for n in range(COUNT):
        rng = _rng(seed, f"arithmetic {level}", n)
        if level <= 3:
            a, b = (
                rng.randrange(10 ** (level - 1) if level > 1 else 0, 10**level) for _ in range(2)
            )
            asked, found = (
                (f"{a} + {b}", a + b) if n % 2 else (f"{max(a, b)} - {min(a, b)}", abs(a - b))
            )
        elif level == 4:
            a, b = rng.randrange(10, 100), rng.randrange(10, 100)
            asked, found = f"{a} * {b}", a * b
        else:
            a, b, c = (rng.randrange(10, 100) for _ in range(3))
            asked, found = f"{a} * {b} + {c}", a * b + c
        yield Sample(str(n), str(found), user(f"What is {asked}? {ALONE}"))


def chain(seed: int, steps: int) -> Iterator[Sample]:
    """A digit that is changed step by step, modulo 10: each step depends on the last."""
    for n in range(COUNT):
        rng = _rng(seed, f"chain {steps}", n)
        value = rng.randrange(10)
        lines = [f"Start with {value}."]
        for _ in range(steps):
            term = rng.randrange(1, 10)
            if rng.random() < 0.5:
                lines.append(f"Add {term}.")
                value = (value + term) % 10
            else:
                lines.append(f"Multiply by {term}.")
                value = value * term % 10
        lines.append("Keep the last digit alone after every step. What is the digit at the end?")
        lines.append("End with a line: The answer is N.")
        yield Sample(str(n), str(value), user("\n".join(lines)))


def series(seed: int) -> Iterator[Sample]:
    """Of four numbers the one that goes on with a series is to be the likeliest."""
    for n in range(COUNT):
        rng = _rng(seed, "series", n)
        start, step = rng.randrange(1, 10), rng.randrange(1, 6)
        shown = [start + step * k for k in range(6)]
        right = shown[-1] + step
        wrong = rng.sample([x for x in range(right - 5, right + 6) if x != right], 3)
        choices = [right, *wrong]
        rng.shuffle(choices)
        context = ", ".join(map(str, shown)) + ","
        pairs = [(context, f" {one},") for one in choices]
        yield Sample(str(n), choices.index(right), pairs=pairs)


def tool_call(seed: int) -> Iterator[Sample]:
    """One call with the right name and arguments, one tool of three."""
    for n in range(COUNT):
        rng = _rng(seed, "call", n)
        city, days, name = rng.choice(PLACES), rng.randrange(1, 8), rng.choice(NAMES)
        hour = rng.randrange(24)
        asked, call = rng.choice(
            (
                (
                    f"Get the forecast for the {city} for {days} days.",
                    ("forecast", {"place": city, "days": days}),
                ),
                (
                    f"Set an alarm at hour {hour} with the label {name}.",
                    ("set_alarm", {"hour": hour, "label": name}),
                ),
                (f"Look up the phone number of {name}.", ("phone_number", {"name": name})),
            )
        )
        target = [{"name": call[0], "arguments": call[1]}]
        yield Sample(str(n), target, user(asked), tools=TOOLS)


def _tool(called: str, description: str, **properties: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
    }
    function = {"name": called, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [
    _tool("forecast", "The weather of a place.", place="string", days="integer"),
    _tool("set_alarm", "Set an alarm.", hour="integer", label="string"),
    _tool("phone_number", "Look up a phone number.", name="string"),
]


def _rng(seed: int, what: str, number: int) -> random.Random:
    return random.Random(f"{seed} {what} {number}")
