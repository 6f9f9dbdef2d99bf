"""Tests that need no data: seeded, each with a chance level, from a few tokens to a million."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from dsv4.eval.generated import errands, recall, reckon
from dsv4.eval.task import Sample, Task

LENGTHS = {f"{n}k": n * 1024 for n in (4, 8, 16, 32, 64, 128, 256, 512)} | {"1m": 1 << 20}
COUNT = 50


def tasks() -> list[Task]:
    """All of them, without a limit on samples below COUNT."""
    return [*short(), *agents(), *long()]


def short() -> list[Task]:
    """What fits into a small model's context."""
    return [
        Task("copy", "Copying", recall.copy, "verbatim", "EM", max_tokens=128),
        Task(
            "key_value",
            "Key–value recall",
            recall.key_value,
            "number",
            "EM",
            chance=recall.KEY_VALUE_CHANCE,
            max_tokens=64,
        ),
        *(
            Task(
                f"arithmetic_{level}",
                f"Arithmetic, level {level}",
                partial(reckon.arithmetic, level=level),
                "number",
                "EM",
                chance=reckon.CHANCE[level],
                max_tokens=64,
            )
            for level in reckon.CHANCE
        ),
        Task(
            "tool_call",
            "Tool-call format",
            reckon.tool_call,
            "calls",
            "EM",
            chance=reckon.CALL_CHANCE,
            max_tokens=128,
        ),
        *(
            Task(
                f"chain_{steps}",
                f"Reasoning over {steps} steps",
                partial(reckon.chain, steps=steps),
                "number",
                "EM",
                chance=0.1,
                max_tokens=1024,
            )
            for steps in (2, 8, 32, 128)
        ),
        Task(
            "next_of_series",
            "Likelihood of the next of a series",
            reckon.series,
            "likeliest",
            "ACC",
            chance=0.25,
        ),
    ]


def agents() -> list[Task]:
    """Several calls of tools, each with what the last one gave; the tools are here, in memory."""
    return [
        *(
            Task(
                f"notes_{steps}",
                f"Agent: a trail of {steps} notes",
                partial(errands.notes, steps=steps),
                "squad",
                "EM",
                chance=errands.NOTES_CHANCE,
                max_tokens=2048,
                environment=errands.reader,
            )
            for steps in (2, 8, 32)
        ),
        Task(
            "ledger",
            "Agent: accounts of two people",
            errands.ledger,
            "number",
            "EM",
            chance=errands.LEDGER_CHANCE,
            max_tokens=2048,
            environment=errands.clerk,
        ),
        Task(
            "shelves",
            "Agent: things moved to one shelf",
            errands.shelves,
            "state",
            "EM",
            max_tokens=2048,
            environment=errands.porter,
        ),
    ]


def long() -> list[Task]:
    """Needles, one and several, at each length."""
    out = []
    for word, tokens in LENGTHS.items():
        needle = partial(recall.needle, tokens=tokens)
        out.append(
            Task(
                f"needle_{word}",
                f"Needle in {word} tokens",
                needle,
                "number",
                "EM",
                chance=recall.NEEDLE_CHANCE,
                max_tokens=recall.REPLY,
                needs=tokens,
                sized=needle,
            )
        )
        several = partial(recall.multi_needle, tokens=tokens)
        out.append(
            Task(
                f"mrcr_{word}",
                f"Multi-needle (MRCR's rules), {word} tokens",
                several,
                "mrcr",
                "MMR",
                chance=recall.MRCR_CHANCE,
                max_tokens=recall.REPLY,
                needs=tokens,
                sized=several,
            )
        )
    return out


def first(samples: Iterable[Sample], count: int) -> list[Sample]:
    """So many of them."""
    return [sample for _, sample in zip(range(count), samples, strict=False)]
