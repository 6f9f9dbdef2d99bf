"""Rows of a dataset: JSONL, JSON, CSV, Parquet, a folder of them, or an id of the hub.

A row has `question` (or problem, prompt, input) and `answer` (or target, solution, label);
`choices` (or options, or columns A to D) make it a multiple choice, `tests` a program. BrowseComp's
rows are sealed with their `canary`, so that no crawler reads them. Splits are files or folders
whose names hold the split's word; without one, a file's rows are its questions.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

QUESTION = ("question", "problem", "prompt", "input", "query", "Problem", "Question")
ANSWER = (
    *("answer", "answer_letter", "target", "targets", "solution", "label", "gold", "golden"),
    *("expected", "Answer", "Short Answer", "Correct Answer"),
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEST, EXAMPLES = ("test", "validation", "valid", "val"), ("dev", "train", "validation", "val")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
WRONG = tuple(f"Incorrect Answer {n}" for n in (1, 2, 3))  # GPQA's


class DataError(ValueError):
    """A file or a dataset that cannot be read as questions: the message names it."""


def rows_of(source: str, splits: Sequence[str] = TEST) -> Iterator[dict[str, Any]]:
    """Rows of the first split that there is, in one form. Raises DataError."""
    path = Path(source)
    found = _files(path, splits) if path.exists() else _hub(source, splits)
    for row in found:
        yield _form(row)


def examples_of(source: str) -> list[dict[str, Any]]:
    """Rows of the split from which examples are taken: that beside a file, or a folder's or the
    hub's; empty where there is none."""
    path = Path(source)
    if path.is_file():
        return [_form(row) for file in _beside(path) for row in _file(file)]
    for word in EXAMPLES:
        if word != _questions(source):
            try:
                return list(rows_of(source, (word,)))
            except DataError:
                continue
    return []


def _questions(source: str) -> str:
    """The split that holds the questions."""
    for word in TEST:
        try:
            next(rows_of(source, (word,)), None)
        except DataError:
            continue
        return word
    return ""


def asked(row: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """Question and answer. Raises DataError for a row without them."""
    return one_of(row, QUESTION, name), one_of(row, ANSWER, name)


def one_of(row: Mapping[str, Any], names: Sequence[str], number: str) -> Any:
    """The first of some fields that a row has. Raises DataError."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise DataError(f"row {number} has none of {', '.join(names)}: its fields are {', '.join(row)}")


def right_choice(answer: Any, choices: Sequence[str], number: str) -> int:
    """The place of an answer that is a letter, a number or one of the choices. Raises DataError."""
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, int) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str) and len(answer) == 1 and answer in LETTERS[: len(choices)]:
        return LETTERS.index(answer)
    raise DataError(f"row {number}: the answer {answer!r} is none of its {len(choices)} choices")


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


def _form(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its choices as `choices`, whatever they are called."""
    out = unsealed(row) if "canary" in row else dict(row)
    if all(out.get(name) for name in WRONG):
        return out | _shuffled(out)
    lettered = [[prefix + letter for letter in "ABCD"] for prefix in ("", "choice_")]
    for names in lettered:
        if all(name in out for name in names):
            out["choices"] = [str(out[name]) for name in names]
    found = out.get("choices") or out.get("options")
    if found:
        texts = list(found["text"] if isinstance(found, Mapping) else found)
        if not isinstance(texts[0], str) and out.get("answer") in texts:
            out["answer"] = str(out["answer"])  # numbers, of which the answer is one, and no place
        out["choices"] = [str(one) for one in texts]
    return out


def _shuffled(row: Mapping[str, Any]) -> dict[str, Any]:
    """GPQA's four answers, in an order that the question alone decides."""
    texts = [str(row[name]).strip() for name in ("Correct Answer", *WRONG)]
    order = random.Random(str(row.get("Question"))).sample(range(4), 4)
    return {"choices": [texts[n] for n in order], "answer": LETTERS[order.index(0)]}


def _files(path: Path, splits: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    files = [path] if path.is_file() else []
    if path.is_dir():
        every = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        for word in splits:
            files = files or [file for file in every if _holds(file.relative_to(path), word)]
        if not files:
            raise DataError(f"{path} holds no {' or '.join(splits)} split: name a file of it")
    for file in files:
        yield from _file(file)


def _beside(path: Path) -> list[Path]:
    """The file of examples beside one of questions: `x_test.jsonl` has `x_dev.jsonl`."""
    for word in TEST:
        if _holds(Path(path.name), word):
            for other in EXAMPLES:
                near = path.with_name(re.sub(rf"(?<![a-z]){word}(?![a-z])", other, path.name))
                if other != word and near.is_file():
                    return [near]
    return []


def _holds(path: Path, word: str) -> bool:
    """Whether a path names a split."""
    return re.search(rf"(?<![a-z]){word}(?![a-z])", path.as_posix().lower()) is not None


def _hub(source: str, splits: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Rows of `owner/name[:config[:split]]`."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"{source} is no file, and dataset ids need datasets: pip install 'dsv4[lm-eval]'"
        ) from error
    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    for word in (split,) if split and splits is TEST else splits:
        try:
            yield from load_dataset(name, config or None, split=word)
            return
        except Exception as error:  # the library raises anything, also without a network
            line = " ".join(str(error).split())[:200]
    raise DataError(f"the dataset {source} cannot be loaded ({line}): give a file")


def _file(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of one file. Raises DataError."""
    try:
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
            with path.open("rb") as lines:  # a text may hold what ends lines of text
                yield from (json.loads(line) for line in lines if line.strip())
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
