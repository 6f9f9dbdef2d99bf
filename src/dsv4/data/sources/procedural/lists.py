"""Sorting, copying, reversing, spelling, counting letters."""

from __future__ import annotations

import random

from dsv4.data.sources.procedural.problem import Problem
from dsv4.data.sources.procedural.words import ANIMALS, COLOURS, FOODS, THINGS

WORDS = tuple(sorted({*THINGS, *ANIMALS, *COLOURS, *FOODS}))


def sort_numbers(rng: random.Random) -> Problem:
    """By taking the smallest of what is left."""
    numbers = rng.sample(range(rng.choice((10, 100, 1000))), rng.randint(3, 8))
    downwards = rng.random() < 0.3
    order = sorted(numbers, reverse=downwards)
    word = "largest to smallest" if downwards else "smallest to largest"
    question = f"Sort from {word}: {', '.join(map(str, numbers))}"
    first = "largest" if downwards else "smallest"
    left, steps = list(numbers), []
    for number in order[:-1]:
        steps.append(f"The {first} of {', '.join(map(str, left))} is {number}.")
        left.remove(number)
    key = f"sort {' '.join(map(str, sorted(numbers)))}"
    return Problem(key, question, ", ".join(map(str, order)), "\n".join(steps))


def sort_words(rng: random.Random) -> Problem:
    """In alphabetical order."""
    words = rng.sample(WORDS, rng.randint(3, 8))
    question = rng.choice(("Sort alphabetically: {}", "Put in alphabetical order: {}"))
    order = sorted(words)
    return Problem(f"sort {' '.join(order)}", question.format(", ".join(words)), ", ".join(order))


def copy(rng: random.Random) -> Problem:
    """Words, numbers, or letters that mean nothing, exactly."""
    kind = rng.randrange(3)
    if kind == 0:
        text = " ".join(rng.choices(WORDS, k=rng.randint(2, 16)))
    elif kind == 1:
        text = " ".join(str(rng.randrange(1000)) for _ in range(rng.randint(2, 12)))
    else:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        text = "".join(rng.choices(letters, k=rng.randint(4, 24)))
    forms = ("Repeat exactly: {}", "Copy this: {}", "Say this again: {}", "Repeat: {}")
    return Problem(f"copy {text}", rng.choice(forms).format(text), text)


def reverse(rng: random.Random) -> Problem:
    """A list backwards, or a word."""
    if rng.random() < 0.5:
        words = rng.sample(WORDS, rng.randint(2, 8))
        question, answer = f"Reverse this list: {', '.join(words)}", ", ".join(reversed(words))
        return Problem(f"reverse {' '.join(words)}", question, answer)
    word = rng.choice(WORDS)
    steps = f"{word} is spelled {'-'.join(word)}."
    return Problem(f"backwards {word}", f"Spell {word} backwards.", word[::-1], steps)


def spell(rng: random.Random) -> Problem:
    """The letters of a few words."""
    words = rng.sample(WORDS, rng.randint(1, 3))
    answer = "\n".join(f"{word}: {'-'.join(word)}" for word in words)
    return Problem(f"spell {' '.join(sorted(words))}", f"Spell: {', '.join(words)}", answer)


def count_letters(rng: random.Random) -> Problem:
    """How often a letter stands in a word, or how many letters it has."""
    word = rng.choice(WORDS)
    spelled = f"{word} is spelled {'-'.join(word)}."
    if rng.random() < 0.4:
        question = f"How many letters does the word {word} have?"
        return Problem(f"length {word}", question, f"{word} has {len(word)} letters.", spelled)
    letter = rng.choice((rng.choice(word), rng.choice("aeiounrst")))
    times = word.count(letter)
    question = f"How often does the letter {letter} stand in {word}?"
    answer = f"{times} time{'' if times == 1 else 's'}."
    return Problem(f"letters {word} {letter}", question, answer, spelled)
