"""Short talks from templates: what a user said is remembered, asked about, put right."""

from __future__ import annotations

import random
from collections.abc import Callable

from dsv4.data.document import Document
from dsv4.data.sources.procedural.words import ANIMALS, COLOURS, FOODS, HOBBIES, NAMES, PLACES

Talk = list[tuple[str, str]]  # what the user says, and the reply

HELLOS = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi there.", "Hi! What can I do for you?"),
    ("Good evening.", "Good evening! How can I help?"),
)
THANKS = (
    ("Thank you.", "You are welcome!"),
    ("Thanks, that helps.", "I am glad to hear that."),
    ("Great, bye!", "Goodbye! Have a nice day."),
)


def dialogue(rng: random.Random) -> Document:
    """One talk, with or without a greeting and a farewell."""
    key, talk = rng.choice(TALKS)(rng)
    talk = [*([rng.choice(HELLOS)] if rng.random() < 0.4 else []), *talk]
    talk = [*talk, *([rng.choice(THANKS)] if rng.random() < 0.4 else [])]
    roles = [("user", "assistant")] * len(talk)
    said = zip(roles, talk, strict=True)
    messages = tuple(
        {"role": role, "content": text} for pair in said for role, text in zip(*pair, strict=True)
    )
    return Document(messages=messages, key=key)


def _remember(rng: random.Random) -> tuple[str, Talk]:
    """Facts about the user, of which one is asked for."""
    kinds = {"name": NAMES, "favourite colour": COLOURS, "favourite animal": ANIMALS}
    kinds |= {"favourite food": FOODS, "hobby": HOBBIES}
    told = {kind: rng.choice(kinds[kind]) for kind in rng.sample(list(kinds), rng.randint(1, 3))}
    talk: Talk = []
    for kind, value in told.items():
        replies = (f"I will remember that your {kind} is {value}.", f"{value.capitalize()}, noted!")
        talk.append((f"My {kind} is {value}.", rng.choice(replies)))
    asked = rng.choice(list(told))
    talk.append((f"What is my {asked}?", f"Your {asked} is {told[asked]}."))
    return f"remember {asked} {sorted(told.items())}", talk


def _correct(rng: random.Random) -> tuple[str, Talk]:
    """A fact that is put right; the later one counts."""
    name, thing = rng.choice(NAMES), rng.choice(("meeting", "party", "lesson", "concert"))
    first, second = rng.sample(PLACES, 2)
    talk = [
        (f"{name}'s {thing} is in the {first}.", f"All right: the {thing} is in the {first}."),
        (f"Sorry, I meant the {second}.", f"No problem. Then the {thing} is in the {second}."),
        (f"Where is the {thing} of {name}?", f"The {thing} of {name} is in the {second}."),
    ]
    return f"correct {name} {thing} {first} {second}", talk


def _choose(rng: random.Random) -> tuple[str, Talk]:
    """A choice from what there is."""
    foods = rng.sample(FOODS, rng.randint(2, 5))
    disliked = rng.choice(foods)
    left = [food for food in foods if food != disliked]
    talk = [
        (
            f"I have {_listed(foods)} at home. I do not like {disliked}.",
            "I see. I will leave it out.",
        ),
        ("What can I eat?", f"You can eat {_listed(left, 'or')}."),
    ]
    return f"choose {disliked} {sorted(foods)}", talk


def _rephrase(rng: random.Random) -> tuple[str, Talk]:
    """Instructions about the form of an answer."""
    animals = rng.sample(ANIMALS, rng.randint(2, 5))
    order = "first" if rng.random() < 0.5 else "last"
    asked = animals[0 if order == "first" else -1]
    talk = [
        (f"Here is a list: {', '.join(animals)}. How many animals are there?", str(len(animals))),
        (f"Which one is {order}?", f"The {asked} is {order}."),
        ("Write it in capital letters.", asked.upper()),
    ]
    return f"rephrase {order} {' '.join(animals)}", talk


def _listed(words: list[str], joint: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"


TALKS: tuple[Callable[[random.Random], tuple[str, Talk]], ...] = (
    _remember,
    _correct,
    _choose,
    _rephrase,
)
