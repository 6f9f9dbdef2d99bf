"""Look-ups in tables and stories, in one step or two, and needles in long texts."""

from __future__ import annotations

import random

from dsv4.data.sources.procedural.problem import Problem
from dsv4.data.sources.procedural.words import ANIMALS, COLOURS, FOODS, NAMES, PLACES, THINGS

HAY = 200  # the most sentences around a needle


def look_up(rng: random.Random) -> Problem:
    """One of several facts of one kind, as a list or as sentences."""
    names = rng.sample(NAMES, rng.randint(3, 10))
    kind, values = rng.choice(
        (("animal", ANIMALS), ("colour", COLOURS), ("food", FOODS), ("number", range(10, 100)))
    )
    facts = {name: str(rng.choice(values)) for name in names}
    asked = rng.choice(names)
    if rng.random() < 0.5:
        told = "\n".join(f"{name}: {value}" for name, value in facts.items())
    else:
        told = " ".join(f"The {kind} of {name} is {value}." for name, value in facts.items())
    question = f"{told}\nWhat is the {kind} of {asked}?"
    return Problem(
        _key("look", facts, asked), question, f"The {kind} of {asked} is {facts[asked]}."
    )


def two_steps(rng: random.Random) -> Problem:
    """Who has what, and where that is."""
    count = rng.randint(3, 6)
    names, things = rng.sample(NAMES, count), rng.sample(THINGS, count)
    places = [rng.choice(PLACES) for _ in range(count)]
    lines = [f"{name} has the {thing}." for name, thing in zip(names, things, strict=True)]
    lines += [
        f"The {thing} is in the {place}." for thing, place in zip(things, places, strict=True)
    ]
    rng.shuffle(lines)
    n = rng.randrange(count)
    question = f"{' '.join(lines)}\nWhere is the thing that {names[n]} has?"
    steps = f"{names[n]} has the {things[n]}. The {things[n]} is in the {places[n]}."
    facts = dict(zip(things, places, strict=True))
    return Problem(_key("two", facts, names[n]), question, f"In the {places[n]}.", steps)


def needle(rng: random.Random) -> Problem:
    """A number that was hidden in a text of no interest, among others for other things."""
    sentences = [_hay(rng) for _ in range(rng.randint(5, HAY))]
    things = rng.sample(THINGS, rng.randint(1, 4))
    secrets = {thing: str(rng.randrange(1000, 10_000)) for thing in things}
    for thing, secret in secrets.items():
        hidden = f"The secret number of the {thing} is {secret}."
        sentences.insert(rng.randrange(len(sentences) + 1), hidden)
    asked = rng.choice(things)
    question = f"{' '.join(sentences)}\nWhat is the secret number of the {asked}?"
    answer = f"The secret number of the {asked} is {secrets[asked]}."
    return Problem(_key("needle", secrets, asked), question, answer)


def _hay(rng: random.Random) -> str:
    name, animal, thing = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(THINGS)
    colour, place, food = rng.choice(COLOURS), rng.choice(PLACES), rng.choice(FOODS)
    forms = (
        f"{name} put the {colour} {thing} in the {place}.",
        f"The {animal} slept near the {place}.",
        f"{name} ate {food} and looked at the {animal}.",
        f"In the {place} there was a {colour} {thing}.",
        f"{name} asked whether the {thing} was {colour}.",
        f"A {colour} {animal} walked through the {place}.",
    )
    return rng.choice(forms)


def _key(task: str, facts: dict[str, str], asked: str) -> str:
    return f"{task} {asked} {' '.join(f'{name}={value}' for name, value in sorted(facts.items()))}"
