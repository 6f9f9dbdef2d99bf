"""Copying and finding: what stands in the prompt must be said again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from dsv4.eval.generated.words import ANIMALS, CHARACTERS, NAMES, THINGS, hay, sentence
from dsv4.eval.task import Sample, user

COUNT = 50
KEY_VALUE_CHANCE = 1 / 8  # one of the values that stand there
NEEDLE_CHANCE = 1 / 9000  # of all numbers of four digits
SENTENCES = 8  # of a reply, so that it is long enough for difflib to leave single letters alone
MRCR_CHANCE = 0.085  # of another reply behind the right code
REPLY = 256  # tokens
SPARE = 64 + REPLY  # tokens that a question and its answer take
FILLED = 0.99  # of a length: how many tokens a text has is known from a part of it
ROLE = 3  # tokens of a message beside its text
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


def needle(seed: int, tokens: int, characters: float = CHARACTERS) -> Iterator[Sample]:
    """A number of four digits at every depth of a text; a token has so many `characters`."""
    for n in range(COUNT):
        rng = _rng(seed, f"needle {tokens}", n)
        text = hay(rng, characters * (FILLED * tokens - SPARE))
        thing, secret = rng.choice(THINGS), rng.randrange(1000, 10_000)
        place = len(text) * (n % 11) // 10
        text.insert(place, f"The secret number of the {thing} is {secret}.")
        question = f"What is the secret number of the {thing}? Reply with the number alone."
        yield Sample(str(n), str(secret), user(f"{' '.join(text)}\n\n{question}"))


def multi_needle(seed: int, tokens: int, characters: float = CHARACTERS) -> Iterator[Sample]:
    """A conversation in which the same thing was asked for several times; the k-th is wanted.

    By MRCR's rules: the reply begins with a code, and is then compared letter by letter.
    """
    for n in range(COUNT):
        rng = _rng(seed, f"mrcr {tokens}", n)
        kind, topic = rng.choice(KINDS), rng.choice(ANIMALS)
        count = NEEDLES[n % len(NEEDLES)]
        pieces = [_piece(rng) for _ in range(count)]
        same = [(f"Write a {kind} about a {topic}.", piece) for piece in pieces]
        turns = _turns(rng, characters, FILLED * tokens - SPARE - _tokens(same, characters))
        places = sorted(rng.randrange(len(turns) + 1) for _ in same)
        for place, turn in reversed(list(zip(places, same, strict=True))):
            turns.insert(place, turn)
        talk = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        k = rng.randrange(count)
        code = "".join(rng.choices("abcdefghijkmnpqrstuvwxyz23456789", k=10))
        question = (
            f"Prepend {code} to the {_nth(k)} {kind} about a {topic}, exactly as you wrote it. "
            "Write nothing else."
        )
        talk.append({"role": "user", "content": question})
        yield Sample(str(n), {"code": code, "text": pieces[k]}, talk)


def _turns(rng: random.Random, characters: float, tokens: float) -> list[tuple[str, str]]:
    """Other requests and their replies of about so many tokens."""
    turns: list[tuple[str, str]] = []
    while tokens > 0:
        asked = f"Write a {rng.choice(KINDS)} about a {rng.choice(THINGS)}."  # topics are animals
        turns.append((asked, _piece(rng)))
        tokens -= _tokens(turns[-1:], characters)
    return turns


def _tokens(turns: Sequence[tuple[str, str]], characters: float) -> float:
    return sum(len(text) / characters + ROLE for turn in turns for text in turn)


def _piece(rng: random.Random) -> str:
    return " ".join(sentence(rng) for _ in range(SENTENCES))


def _nth(k: int) -> str:
    return ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")[k]


def _rng(seed: int, what: str, number: int) -> random.Random:
    return random.Random(f"{seed} {what} {number}")
