"""Questions for base models: solved examples, then the question, which the model goes on with.

    prompt = example_1 … example_k question      k as the release's table has it

Examples are the first of the dev or train split, of the question's own subject where rows name
one. Without such a split they are the last rows of the questions, which are then left out, and
counted as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dsv4.eval.catalog import Entry
from dsv4.eval.grade.boxed import value
from dsv4.eval.rows import LETTERS, asked, examples_of, right_choice, rows_of
from dsv4.eval.task import Sample, Task

SUBJECT = ("subject", "Subject", "category", "discipline", "task", "language")
ANSWER_TOKENS = 64
EXAMPLE = "is an example"
Row = Mapping[str, Any]


def behind_examples(task: Task, entry: Entry, source: str, first: Row) -> Task:
    """The task with the questions of `source`, whose first row is `first`: letters by likelihood,
    other answers as they are gone on with. Raises DataError."""
    examples = examples_of(source) if entry.shots else []
    spare = 0 if examples else entry.shots
    grader = "likeliest" if first.get("choices") else _grader(entry, first)

    def samples(seed: int) -> Iterator[Sample]:
        rows = list(rows_of(source))
        own = examples or rows[len(rows) - spare :]
        for number, row in enumerate(rows[: len(rows) - spare]):
            yield _sample(row, str(number), _chosen(own, row, entry.shots), grader)
        for number in range(len(rows) - spare, len(rows)):
            yield Sample(str(number), None, left_out=EXAMPLE)

    if grader == "likeliest":
        return replace(task, samples=samples, grader=grader, chance=1 / len(first["choices"]))
    return replace(
        task,
        samples=samples,
        grader=grader,
        chance=None,
        max_tokens=ANSWER_TOKENS,
        temperature=0.0,
        stop=("\n",),
    )


def _sample(row: Row, name: str, examples: Sequence[Row], grader: str) -> Sample:
    solved = "".join(f"{_asked(one, name)}{_answer(one, name)}\n\n" for one in examples)
    context = solved + _asked(row, name)
    _, right = asked(row, name)
    if grader == "likeliest":
        choices = row["choices"]
        pairs = [(context, f" {letter}") for letter in LETTERS[: len(choices)]]
        return Sample(name, right_choice(right, choices, name), pairs=pairs)
    texts = [str(one) for one in right] if isinstance(right, list) else [str(right)]
    target: Any = texts[0] if grader == "number" else [texts] if grader == "f1" else texts
    return Sample(name, target, context)


def _asked(row: Row, name: str) -> str:
    """Up to the answer, without the space before it."""
    question, _ = asked(row, name)
    shown = [
        f"{letter}. {one}" for letter, one in zip(LETTERS, row.get("choices") or (), strict=False)
    ]
    return "\n".join([f"Question: {str(question).strip()}", *shown, "Answer:"])


def _answer(row: Row, name: str) -> str:
    _, right = asked(row, name)
    if choices := row.get("choices"):
        return f" {LETTERS[right_choice(right, choices, name)]}"
    return f" {right[0] if isinstance(right, list) else right}"


def _chosen(examples: Sequence[Row], row: Row, count: int) -> Sequence[Row]:
    """The first of the row's own subject, if there are enough; never the question itself."""
    question, _ = asked(row, "")
    others = [one for one in examples if asked(one, "example")[0] != question]
    subject = next((row[name] for name in SUBJECT if row.get(name) is not None), None)
    own = [one for one in others if subject is not None and subject in _subjects(one)]
    return (own if len(own) >= count else others)[:count]


def _subjects(row: Row) -> list[Any]:
    return [row[name] for name in SUBJECT if row.get(name) is not None]


def _grader(entry: Entry, first: Row) -> str:
    """Numbers as numbers, F1 by words, other answers by SQuAD's exact match."""
    _, right = asked(first, "0")
    if entry.metric == "F1":
        return "f1"
    return "number" if value(str(right)) is not None else entry.grader or "squad"
