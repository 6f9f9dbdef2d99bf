"""Errands for an agent: what is wanted takes several calls, each of which depends on the last."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from itertools import pairwise

from dsv4.eval.agent.environment import Environment, Tool, ToolError, parameters
from dsv4.eval.generated.words import COLOURS, NAMES, PLACES, THINGS
from dsv4.eval.task import Sample, user

COUNT = 50
NOTES_CHANCE = 1 / 8  # of the colours that some note names
LEDGER_CHANCE = 1 / 90  # the likeliest sum of two numbers of two digits
SHELVES = "north south east west".split()


def notes(seed: int, steps: int) -> Iterator[Sample]:
    """Files of which each names the next, the last a colour; other trails lead to other colours."""
    for n in range(COUNT):
        rng = _rng(seed, f"notes {steps}", n)
        colours = rng.sample(COLOURS, 8)
        names = rng.sample(range(100, 1000), 8 * steps)
        paths = [f"{rng.choice(PLACES)}/{name}.txt" for name in names]
        files = {}
        for trail, colour in enumerate(colours):
            mine = paths[trail * steps : (trail + 1) * steps]
            for path, following in pairwise(mine):
                files[path] = f"Go on with the file {following}."
            files[mine[-1]] = f"The colour is {colour}."
        k = rng.randrange(8)
        asked = (
            f"Read the file {paths[k * steps]} and go on from file to file as they say, until one "
            "names a colour. Reply with the colour alone."
        )
        yield Sample(str(n), colours[k], user(asked), setup=dict(sorted(files.items())))


def reader(sample: Sample) -> Environment:
    """A file system that can be listed and read."""
    files: Mapping[str, str] = sample.setup

    def listed(folder: str) -> str:
        found = [path for path in files if path.startswith(folder.strip("/") + "/")]
        if not found:
            raise ToolError(f"there is no folder {folder}")
        return "\n".join(found)

    def read(path: str) -> str:
        if path not in files:
            raise ToolError(f"there is no file {path}")
        return files[path]

    return Environment(
        [
            Tool("list_files", "The files of a folder.", parameters(folder="string"), listed),
            Tool("read_file", "The text of a file.", parameters(path="string"), read),
        ]
    )


def ledger(seed: int) -> Iterator[Sample]:
    """What two people have together: names lead to accounts, accounts to amounts."""
    for n in range(COUNT):
        rng = _rng(seed, "ledger", n)
        numbers = rng.sample(range(1000, 10_000), len(NAMES))
        accounts = dict(zip(NAMES, numbers, strict=True))
        amounts = {str(number): rng.randrange(10, 100) for number in numbers}
        a, b = rng.sample(NAMES, 2)
        total = amounts[str(accounts[a])] + amounts[str(accounts[b])]
        asked = f"How much do {a} and {b} have together? Reply with the number alone."
        setup = {"accounts": accounts, "amounts": amounts}
        yield Sample(str(n), str(total), user(asked), setup=setup)


def clerk(sample: Sample) -> Environment:
    """A data base of accounts, and sums."""
    accounts, amounts = sample.setup["accounts"], sample.setup["amounts"]

    def account(name: str) -> str:
        if name not in accounts:
            raise ToolError(f"{name} has no account")
        return str(accounts[name])

    def amount(account: int) -> str:
        if str(account) not in amounts:
            raise ToolError(f"there is no account {account}")
        return str(amounts[str(account)])

    def add(a: int, b: int) -> str:
        return str(a + b)

    return Environment(
        [
            Tool("find_account", "The account of a person.", parameters(name="string"), account),
            Tool("amount", "What an account holds.", parameters(account="integer"), amount),
            Tool("add", "The sum of two numbers.", parameters(a="integer", b="integer"), add),
        ]
    )


def shelves(seed: int) -> Iterator[Sample]:
    """Things to be moved until all of a kind lie on one shelf: the shelves are graded."""
    for n in range(COUNT):
        rng = _rng(seed, "shelves", n)
        things = rng.sample(THINGS, 4)
        stock = {
            name: {thing: rng.randrange(1, 9) for thing in sorted(rng.sample(things, 3))}
            for name in SHELVES
        }
        thing, target = rng.choice(things), rng.choice(SHELVES)
        after = {
            name: {k: v for k, v in held.items() if k != thing} for name, held in stock.items()
        }
        after[target][thing] = sum(held.get(thing, 0) for held in stock.values())
        asked = (
            f"There are shelves called {', '.join(SHELVES)}. Move every {thing} onto the shelf "
            f"{target}, and nothing else. Reply with done when it is done."
        )
        yield Sample(str(n), after, user(asked), setup=stock)


def porter(sample: Sample) -> Environment:
    """Shelves that can be looked at, and things that can be moved."""
    stock: dict[str, dict[str, int]] = {name: dict(held) for name, held in sample.setup.items()}

    def held(shelf: str) -> dict[str, int]:
        if shelf not in stock:
            raise ToolError(f"there is no shelf {shelf}")
        return stock[shelf]

    def look(shelf: str) -> str:
        return json.dumps(held(shelf))

    def move(thing: str, count: int, source: str, target: str) -> str:
        origin, goal = held(source), held(target)
        if not 1 <= count <= origin.get(thing, 0):
            raise ToolError(f"{source} holds {origin.get(thing, 0)} of {thing}")
        origin[thing] -= count
        if not origin[thing]:
            del origin[thing]
        goal[thing] = goal.get(thing, 0) + count
        return f"{target} holds {goal[thing]} of {thing}"

    moved = parameters(thing="string", count="integer", source="string", target="string")
    return Environment(
        [
            Tool("look", "What lies on a shelf.", parameters(shelf="string"), look),
            Tool("move", "Move things from a shelf to another.", moved, move),
        ],
        lambda: stock,
    )


def _rng(seed: int, what: str, number: int) -> random.Random:
    return random.Random(f"{seed} {what} {number}")
