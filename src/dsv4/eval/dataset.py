"""Questions of one's own, or of the hub: JSONL, JSON, CSV, Parquet or a dataset id, as a chat.

A row has `question` (or problem, prompt, input) and `answer` (or target, solution, label);
`choices` make it a multiple choice, `tests` a program. MRCR's rows have `prompt` (messages as
JSON), `answer` and `random_string_to_prepend`. Rows with a picture are left out: the model reads
texts. BrowseComp's rows are sealed with their `canary`, so that no crawler reads them.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from dsv4.eval.catalog import MATHEMATICS, Entry, prompts
from dsv4.eval.task import Sample, Task, user

QUESTION = ("question", "problem", "prompt", "input", "query", "Problem", "Question")
ANSWER = ("answer", "target", "solution", "label", "gold", "expected", "Answer", "Short Answer")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class DataError(ValueError):
    """A file or a dataset that cannot be read as questions: the message names it."""


def from_file(task: Task, entry: Entry, source: str) -> Task:
    """The task of a catalog's row with the questions of a file or a dataset id."""
    grader = entry.grader or "exact"
    if "/" not in source and not Path(source).exists():
        raise DataError(f"{source}: no file, and no dataset id such as owner/name")

    def samples(seed: int) -> Iterator[Sample]:
        for number, row in enumerate(rows_of(source)):
            if not row.get("image"):
                row = unsealed(row) if "canary" in row else row
                yield sample_of(row, str(number), grader, entry.short, task.effort)

    first = next(iter(rows_of(source)), None)
    if first is None:
        raise DataError(f"{source} holds no question")
    kind = "letter" if first.get("choices") and grader == "exact" else grader
    grader = kind
    chance = 1 / len(_choices(first)) if kind == "letter" and _choices(first) else 0.0
    return replace(task, samples=samples, grader=kind, chance=chance)


def rows_of(source: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a file, or of a dataset id (`owner/name[:config[:split]]`). Raises DataError."""
    path = Path(source)
    if path.is_file():
        try:
            yield from _file(path)
        except (ValueError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        return
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"{source} is no file, and dataset ids need datasets: pip install 'dsv4[lm-eval]'"
        ) from error
    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    try:
        yield from load_dataset(name, config or None, split=split or "test")
    except Exception as error:  # the library raises anything, also without a network
        line = " ".join(str(error).split())[:200]
        raise DataError(f"the dataset {source} cannot be loaded ({line}): give a file") from error


def sample_of(row: Mapping[str, Any], name: str, grader: str, task: str, effort: str) -> Sample:
    """One question in the form of its grader. Raises DataError for a row without one."""
    if grader == "mrcr" and "random_string_to_prepend" in row:
        code = row["random_string_to_prepend"]
        told = row["prompt"]
        messages = json.loads(told) if isinstance(told, str) else told
        target = {"code": code, "text": row["answer"].removeprefix(code)}
        return Sample(name, target, messages)
    question, answer = _one(row, QUESTION, name), _one(row, ANSWER, name)
    form = prompts()
    if grader == "letter" or (row.get("choices") and grader == "exact"):
        choices = _choices(row)
        shown = "\n".join(f"{letter}) {one}" for letter, one in zip(LETTERS, choices, strict=False))
        right = _letter(answer, choices, name)
        return Sample(name, right, user(form["letter"].format(question=question, choices=shown)))
    if grader == "boxed":
        proof = effort in ("max", "ultra") and task in MATHEMATICS
        key = "mathematics_proof" if proof else "mathematics"
        return Sample(name, str(answer), user(form[key].format(question=question)))
    if grader == "python":
        tests = {"tests": _one(row, ("tests", "test"), name)}
        return Sample(name, tests, user(form["python"].format(question=question)))
    if grader == "number":
        return Sample(name, str(answer), user(form["number"].format(question=question)))
    key = "judged" if grader == "judged" else "exact"
    texts = [str(one) for one in answer] if isinstance(answer, list) else str(answer)
    return Sample(name, texts, user(form[key].format(question=question)))


def unsealed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of BrowseComp in the clear: text = base64⁻¹(sealed) ⊕ sha256(canary), repeated.

    Raises DataError for texts that are not sealed so."""
    key = hashlib.sha256(str(row["canary"]).encode()).digest()
    out = dict(row)
    for name in ("problem", "answer"):
        try:
            sealed = base64.b64decode(row[name], validate=True)
            out[name] = bytes(a ^ b for a, b in zip(sealed, cycle(key), strict=False)).decode()
        except (KeyError, ValueError) as error:
            raise DataError(f"a row with a canary whose {name} is not sealed by it") from error
    return out


def _file(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(path).to_pylist()
    elif path.suffix == ".json":
        found = json.loads(path.read_text(encoding="utf-8"))
        yield from found if isinstance(found, list) else found["data"]
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream)
    else:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield json.loads(line)


def _one(row: Mapping[str, Any], names: tuple[str, ...], number: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise DataError(f"row {number} has none of {', '.join(names)}: its fields are {', '.join(row)}")


def _choices(row: Mapping[str, Any]) -> list[str]:
    found = row.get("choices") or row.get("options") or []
    return list(found["text"] if isinstance(found, Mapping) else found)


def _letter(answer: Any, choices: list[str], number: str) -> str:
    """The letter of an answer that is a letter, a number or one of the choices."""
    if isinstance(answer, int) and 0 <= answer < len(choices):
        return LETTERS[answer]
    if isinstance(answer, str) and answer in choices:
        return LETTERS[choices.index(answer)]
    if isinstance(answer, str) and len(answer) == 1 and answer in LETTERS[: len(choices)]:
        return answer
    raise DataError(f"row {number}: the answer {answer!r} is none of its {len(choices)} choices")
