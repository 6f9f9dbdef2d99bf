"""One sample: it is asked, marked where a judge is to say, and graded; the row of it in the log.

seed of a sample = blake2b(seed, task, effort, sample)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dsv4.eval.agent.loop import LEAST, play
from dsv4.eval.grade import LESS_IS_BETTER, Answer, Verdict, verdict_of
from dsv4.eval.log import Key
from dsv4.eval.subject import Ask, Score, Subject, TooLongError, score
from dsv4.eval.task import Sample, Task, window_of


def ask(
    task: Task, subject: Subject, sample: Sample, seed: int, temperature: float | None = None
) -> dict[str, Any]:
    """One sample's row, not graded yet; `temperature` None: the task's. Raises SubjectError."""
    row: dict[str, Any] = {"task": task.name, "effort": task.effort, "sample": sample.id}
    if sample.left_out:
        return row | {"left_out": sample.left_out}
    seed = seed_of(seed, (task.name, task.effort, sample.id))
    row |= {"grader": task.grader, "target": sample.target, "hash": sample.hash, "seed": seed}
    row |= {"rubric": task.rubric} if task.rubric else {}
    own: dict[str, Any] = {"temperature": task.temperature, "stop": task.stop} | dict(
        sample.settings
    )
    own |= {} if temperature is None else {"temperature": temperature}
    most = own.pop("max_tokens", task.max_tokens)
    first = Ask(sample.prompt, task.effort, LEAST, seed=seed, **own)
    try:
        if sample.pairs:
            return row | _scored(subject, sample)
        if task.talk is not None:
            return row | task.talk(subject, sample, first)
        if task.environment is not None:
            return row | _worked(task, subject, sample, first)
        return row | _said(task, subject, replace(first, tools=sample.tools), most)
    except TooLongError as error:
        return row | {"failed": str(error)}


def _scored(subject: Subject, sample: Sample) -> dict[str, Any]:
    scores = [score(subject, *pair) for pair in sample.pairs]
    sizes = [len(text.encode()) for _, text in sample.pairs]
    tokens = sum(one.tokens for one in scores)
    out: dict[str, Any] = {"pairs": list(sample.pairs), "scores": scores, "nbytes": sizes}
    return out | {"prompt_tokens": tokens, "cached_tokens": 0, "completion_tokens": 0}


def _worked(task: Task, subject: Subject, sample: Sample, first: Ask) -> dict[str, Any]:
    """What an agent did: `hash` is also of the tools that it was given."""
    assert task.environment is not None
    environment = task.environment(sample)
    try:
        schemas = [tool.schema for tool in environment.tools]
        told: dict[str, Any] = {"hash": replace(sample, tools=schemas).hash}
        told |= {"prompt": sample.prompt, "tools": schemas, "setup": sample.setup}
        told |= {"temperature": first.temperature, "max_tokens": task.max_tokens}
        first = replace(first, tools=schemas)
        return told | play(subject, environment, first, task.limits, task.max_tokens)
    finally:
        environment.close()


def _said(task: Task, subject: Subject, asked: Ask, limit: int | None) -> dict[str, Any]:
    if limit is None:
        window = min(window_of(task.effort), subject.context or window_of("max"))
        limit = window - subject.count(asked)
        if limit < LEAST:
            raise TooLongError(f"the prompt leaves {limit} tokens of a window of {window:,}")
    reply = subject.generate(replace(asked, max_tokens=limit))
    return {
        "prompt": asked.prompt,
        "tools": list(asked.tools),
        "max_tokens": limit,
        "temperature": asked.temperature,
        **reply.logged,
    }


def graded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its verdict: of a new one, or of a log's, whose verdict is formed anew."""
    if "left_out" in row:
        verdict = Verdict("left out", None, row["left_out"])
    elif "failed" in row:
        worst = None if row["grader"] in LESS_IS_BETTER else 0.0
        verdict = Verdict("failed", worst, row["failed"])
    else:
        answer = Answer(
            row.get("text", ""),
            row.get("calls", ()),
            row.get("finish_reason", "stop"),
            [Score(*one) for one in row.get("scores", ())],
            row.get("nbytes", ()),
            row.get("rubric", ""),
            row.get("judged", {}),
            row.get("stopped", ""),
            row.get("state"),
            row.get("talk", ()),
        )
        verdict = verdict_of(row["grader"], row["target"], answer)
    told = {"grade": verdict.grade, "score": verdict.score, "reason": verdict.reason}
    return dict(row) | told | ({"values": list(verdict.values)} if verdict.values else {})


def seed_of(seed: int, key: Key) -> int:
    """A seed below 2^62 that depends on nothing else."""
    text = "\0".join((str(seed), *key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 2
