"""Questions of one's own, or of the hub, as tasks: see `rows` for what a row may be.

MRCR's rows have `prompt` (messages as JSON), `answer` and `random_string_to_prepend`. Rows with a
picture are left out, and counted as such: the model reads texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsv4.eval import shots
from dsv4.eval.catalog import MATHEMATICS, Entry, prompts
from dsv4.eval.rows import LETTERS, DataError, asked, one_of, right_choice, rows_of
from dsv4.eval.task import Sample, Task, user

PICTURES = ("image", "images", "image_1")


def from_file(task: Task, entry: Entry, source: str) -> Task:
    """The task of a catalog's row with the questions of a file, a folder or a dataset id: those of
    base models as texts that go on behind solved examples (see `shots`), others as chats."""
    if "/" not in source and not Path(source).exists():
        raise DataError(f"{source}: no file, and no dataset id such as owner/name")
    first = next(rows_of(source), None)
    if first is None:
        raise DataError(f"{source} holds no question")
    if entry.suite == "base":
        return shots.behind_examples(task, entry, source, first)
    grader = entry.grader or "exact"
    grader = "letter" if first.get("choices") and grader == "exact" else grader

    def samples(seed: int) -> Iterator[Sample]:
        for number, row in enumerate(rows_of(source)):
            if any(row.get(name) for name in PICTURES):
                yield Sample(str(number), None, left_out="has a picture")
            else:
                yield sample_of(row, str(number), grader, entry.short, task.effort)

    chance = 1 / len(first["choices"]) if grader == "letter" and first.get("choices") else 0.0
    return replace(task, samples=samples, grader=grader, chance=chance)


def sample_of(row: Mapping[str, Any], name: str, grader: str, task: str, effort: str) -> Sample:
    """One question in the form of its grader. Raises DataError for a row without one."""
    if grader == "mrcr" and "random_string_to_prepend" in row:
        code = row["random_string_to_prepend"]
        told = row["prompt"]
        messages = json.loads(told) if isinstance(told, str) else told
        target = {"code": code, "text": row["answer"].removeprefix(code)}
        return Sample(name, target, messages)
    question, answer = asked(row, name)
    form = prompts()
    if grader == "letter" or (row.get("choices") and grader == "exact"):
        choices = row["choices"]
        shown = "\n".join(f"{letter}) {one}" for letter, one in zip(LETTERS, choices, strict=False))
        right = LETTERS[right_choice(answer, choices, name)]
        return Sample(name, right, user(form["letter"].format(question=question, choices=shown)))
    if grader == "boxed":
        proof = effort in ("max", "ultra") and task in MATHEMATICS
        key = "mathematics_proof" if proof else "mathematics"
        return Sample(name, str(answer), user(form[key].format(question=question)))
    if grader == "python":
        tests = {"tests": one_of(row, ("tests", "test"), name)}
        return Sample(name, tests, user(form["python"].format(question=question)))
    if grader == "number":
        return Sample(name, str(answer), user(form["number"].format(question=question)))
    key = "judged" if grader == "judged" else "exact"
    texts = [str(one) for one in answer] if isinstance(answer, list) else str(answer)
    return Sample(name, texts, user(form[key].format(question=question)))
