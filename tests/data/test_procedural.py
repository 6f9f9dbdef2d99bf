"""Generated problems: right by another way of computing, seeded, held out by what is asked."""

import random
import re
from itertools import pairwise

import pytest

from dsv4.data.document import held_out
from dsv4.data.sources.procedural import TASKS, documents, lists, memory, numbers


def said(document):
    return document.text or "\n".join(m["content"] for m in document.messages)


@pytest.fixture(scope="module")
def made():
    return list(documents(count=4000))


def test_the_same_for_the_same_seed(made):
    assert list(documents(count=200)) == made[:200]
    assert list(documents(count=200, seed=1)) != made[:200]


def problems(make, count=300):
    rng = random.Random(0)
    return [make(rng) for _ in range(count)]


@pytest.mark.parametrize(
    "make",
    [numbers.add, numbers.subtract, numbers.multiply, numbers.chain],
    ids=lambda f: f.__name__,
)
def test_arithmetic_is_right_at_every_step(make):
    for problem in problems(make):
        for left, value in re.findall(
            r"((?:-?\d+ [-+*] )+\d+) = (\d+)", problem.steps + " " + problem.answer
        ):
            assert eval(left) == int(value), problem
        asked = re.search(r"\d+(?: [-+*] \d+)+", problem.question)[0]
        assert problem.answer == f"{asked} = {eval(asked)}."


def test_columns_give_the_sum():
    for problem in problems(numbers.add) + problems(numbers.subtract):
        written = re.findall(r"[wW]rite (\d)", problem.steps)
        assert int("".join(reversed(written))) == int(problem.answer.split("= ")[1][:-1])


def test_other_numbers():
    for problem in problems(numbers.compare):
        a, b = map(int, re.findall(r"\d+", problem.question))
        right = max(a, b) if "larger" in problem.question else min(a, b)
        assert a != b and problem.answer.startswith(f"{right} is")
    for problem in problems(numbers.count_on):
        series = [int(n) for n in re.findall(r"\d+", problem.question + " " + problem.answer)]
        assert len({b - a for a, b in pairwise(series)}) == 1


def test_lists():
    for problem in problems(lists.sort_numbers):
        asked = [int(n) for n in problem.question.partition(": ")[2].split(", ")]
        order = sorted(asked, reverse="largest to" in problem.question)
        assert problem.answer == ", ".join(map(str, order))
    for problem in problems(lists.sort_words):
        assert problem.answer == ", ".join(sorted(problem.question.partition(": ")[2].split(", ")))
    for problem in problems(lists.copy):
        assert problem.question.endswith(f": {problem.answer}")
    for problem in problems(lists.count_letters):
        *_, letter, word = re.findall(r"\w+", problem.question.replace(" stand in", ""))
        if "How often" in problem.question:
            assert int(problem.answer.split()[0]) == word.count(letter)


def test_look_ups_and_needles():
    for problem in problems(memory.look_up) + problems(memory.needle, 40):
        fact = problem.answer[:-1]
        kind, name, value = re.match(r"The (.+) of (?:the )?(\S+) is (\w+)$", fact).groups()
        story, _, asked = problem.question.rpartition("\n")
        assert asked.endswith(f"{name}?") and kind in asked
        assert fact in story or f"{name}: {value}" in story.split("\n")
    for problem in problems(memory.two_steps):
        name = re.search(r"that (\w+) has\?", problem.question)[1]
        thing = re.search(rf"{name} has the (\w+)\.", problem.question)[1]
        place = re.search(rf"The {thing} is in the (\w+)\.", problem.question)[1]
        assert problem.answer == f"In the {place}."


def test_talks_remember_what_was_said(made):
    asked = 0
    for document in made:
        text = said(document)
        for kind, value in re.findall(r"^Your (.+) is (\w+)\.$", text, re.MULTILINE):
            assert f"My {kind} is {value}." in text
            asked += 1
    assert asked > 20


def test_every_task_and_every_form_comes(made):
    first_words = {document.key.split()[0] for document in made}
    assert len(first_words) >= len(TASKS)
    forms = {(bool(d.messages), d.thinking_mode) for d in made}
    assert forms == {(False, "chat"), (True, "chat"), (True, "thinking")}


def test_no_held_out_problem_is_trained_on(made):
    kept = {d.key for d in made if held_out(d.digest())}
    trained = {said(d) for d in made if not held_out(d.digest())}
    assert len(kept) > 10
    for document in made:
        if document.key in kept:
            assert said(document) not in trained
    both = [numbers.add(random.Random(seed)) for seed in range(2000)]
    sums = {frozenset(re.findall(r"\d+", p.question)): set() for p in both}
    for problem in both:
        key = problem.document(random.Random(0)).digest()
        sums[frozenset(re.findall(r"\d+", problem.question))].add(held_out(key))
    assert all(len(sides) == 1 for sides in sums.values())  # 27 + 58 is 58 + 27
