"""Words and sentences of no interest, one token or two each."""

from __future__ import annotations

import random

NAMES = (
    "Anna Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Mary Nick Olive Paul".split()
)
ANIMALS = "cat dog horse bird fish mouse sheep cow fox bear duck goat lion frog wolf rabbit".split()
THINGS = "book lamp chair table cup clock key box hat shoe bag pen ring ball coat spoon".split()
COLOURS = "red blue green white black brown yellow grey pink orange".split()
PLACES = "garden kitchen forest river market school tower cellar harbour station".split()
CHARACTERS = 4.35  # of a token in sentences such as these, by the released tokenizer


def sentence(rng: random.Random) -> str:
    """One of a few forms."""
    name, animal, thing = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(THINGS)
    colour, place = rng.choice(COLOURS), rng.choice(PLACES)
    form = rng.randrange(4)
    if form == 0:
        return f"{name} put the {colour} {thing} near the {place}."
    if form == 1:
        return f"The {animal} slept behind the {colour} {thing}."
    if form == 2:
        return f"In the {place} there was a {colour} {animal}."
    return f"{name} looked for the {animal} in the {place}."


def hay(rng: random.Random, characters: float) -> list[str]:
    """Sentences of about so many characters."""
    out: list[str] = []
    while characters > 0:
        out.append(sentence(rng))
        characters -= len(out[-1]) + 1
    return out
