"""Problems that are generated: seeded, each with an answer that is right, half of them as chat.

A problem's key is what is asked, in one order where order does not matter; held-out documents are
chosen by it, so no form of a held-out problem is trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from dsv4.data.document import Document
from dsv4.data.sources.procedural import dialogues, lists, memory, numbers
from dsv4.data.sources.procedural.problem import Problem

COUNT = 120_000
TASKS: dict[str, tuple[Callable[[random.Random], Problem | Document], int]] = {  # and their shares
    "add": (numbers.add, 14),
    "subtract": (numbers.subtract, 10),
    "multiply": (numbers.multiply, 8),
    "chain": (numbers.chain, 6),
    "compare": (numbers.compare, 4),
    "count": (numbers.count_on, 4),
    "sort numbers": (lists.sort_numbers, 6),
    "sort words": (lists.sort_words, 6),
    "copy": (lists.copy, 8),
    "reverse": (lists.reverse, 4),
    "spell": (lists.spell, 5),
    "letters": (lists.count_letters, 4),
    "look up": (memory.look_up, 8),
    "two steps": (memory.two_steps, 4),
    "needle": (memory.needle, 3),
    "dialogue": (dialogues.dialogue, 8),
}


def documents(
    package: Path | None = None, *, count: int = COUNT, seed: int = 0
) -> Iterator[Document]:
    """So many documents, the same for the same seed."""
    rng = random.Random(seed)
    tasks, shares = zip(*TASKS.values(), strict=True)
    for _ in range(count):
        (task,) = rng.choices(tasks, shares)
        made = task(rng)
        yield made if isinstance(made, Document) else made.document(rng)
