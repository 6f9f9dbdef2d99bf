"""Copying and finding: what stands in the prompt must be said again."""

from __future__ import annotations

import random
from collections.abc import Iterator

from dsv4.eval.generated.words import ANIMALS, COLOURS, NAMES, PLACES, THINGS, hay
from dsv4.eval.task import Sample, user

COUNT = 50
KEY_VALUE_CHANCE = 1 / 8  # one of the values that stand there
SPARE = 300  # tokens that a question and its answer take
SAID = 0.82  # of a conversation's tokens; the rest are its questions and roles
KINDS = ("poem", "letter", "riddle", "song", "tale", "speech")
NEEDLES = (2, 4, 8)


def copy(seed: int) -> Iterator[Sample]:
    """Words, numbers or letters, to the letter."""
    for n in range(COUNT):
        rng = _rng(seed, "copy", n)
        if n % 3 == 0:
            text = " ".join(rng.choices(ANIMALS + THINGS, k=rng.randint(2, 10)))
        elif n % 3 == 1:
            text = " ".join(str(rng.randrange(1000)) for _ in range(rng.randint(2, 8)))
        else:
            text = "".join(
                rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(4, 16))
            )
        yield Sample(str(n), text, user(f"Repeat exactly: {text}"))


def key_value(seed: int) -> Iterator[Sample]:
    """The number of one of eight names."""
    for n in range(COUNT):
        rng = _rng(seed, "key", n)
        names = rng.sample(NAMES, 8)
        values = rng.sample(range(10, 100), 8)
        lines = [f"{name}: {value}" for name, value in zip(names, values, strict=True)]
        k = rng.randrange(8)
        question = f"What is the number of {names[k]}? Reply with the number alone."
        yield Sample(str(n), str(values[k]), user("\n".join([*lines, question])))


def needle(seed: int, tokens: int) -> Iterator[Sample]:
    """A number of four digits at every depth of a text."""
    for n in range(COUNT):
        rng = _rng(seed, f"needle {tokens}", n)
        text = hay(rng, tokens - SPARE)
        thing, secret = rng.choice(THINGS), rng.randrange(1000, 10_000)
        place = len(text) * (n % 11) // 10
        text.insert(place, f"The secret number of the {thing} is {secret}.")
        question = f"What is the secret number of the {thing}? Reply with the number alone."
        yield Sample(str(n), str(secret), user(f"{' '.join(text)}\n\n{question}"))


def multi_needle(seed: int, tokens: int) -> Iterator[Sample]:
    """A conversation in which the same thing was asked for several times; the k-th is wanted.

    By MRCR's rules: the reply begins with a code, and is then compared letter by letter.
    """
    for n in range(COUNT):
        rng = _rng(seed, f"mrcr {tokens}", n)
        kind, topic = rng.choice(KINDS), rng.choice(ANIMALS)
        count = NEEDLES[n % len(NEEDLES)]
        asked = [(kind, topic)] * count
        talk: list[dict[str, str]] = []
        pieces = [_piece(rng, topic) for _ in asked]
        others = hay(rng, max(0, int(SAID * (tokens - SPARE - 60 * count))))
        turns: list[tuple[str, str]] = []
        step = 6
        for at in range(0, len(others), step):
            other = (rng.choice(KINDS), rng.choice(THINGS))  # never the topic: those are animals
            turns.append(
                (f"Write a {other[0]} about a {other[1]}.", " ".join(others[at : at + step]))
            )
        places = sorted(rng.randrange(len(turns) + 1) for _ in asked)
        for place, piece in reversed(list(zip(places, pieces, strict=True))):
            turns.insert(place, (f"Write a {kind} about a {topic}.", piece))
        for question, reply in turns:
            talk += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": reply},
            ]
        k = rng.randrange(count)
        code = "".join(rng.choices("abcdefghijkmnpqrstuvwxyz23456789", k=10))
        question = (
            f"Write {code} and then, exactly as you wrote it, the {_nth(k)} {kind} about a "
            f"{topic}. Write nothing else."
        )
        talk.append({"role": "user", "content": question})
        yield Sample(str(n), {"code": code, "text": pieces[k]}, talk)


def _piece(rng: random.Random, topic: str) -> str:
    """A text that no other is like."""
    lines = [
        f"The {rng.choice(COLOURS)} {topic} met {rng.choice(NAMES)} in the {rng.choice(PLACES)},",
        f"and found {rng.randrange(2, 100)} {rng.choice(COLOURS)} {rng.choice(THINGS)}s there.",
        f"{rng.choice(NAMES)} gave it a {rng.choice(THINGS)} on day {rng.randrange(1, 366)}.",
    ]
    return " ".join(lines)


def _nth(k: int) -> str:
    return ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")[k]


def _rng(seed: int, what: str, number: int) -> random.Random:
    return random.Random(f"{seed} {what} {number}")
