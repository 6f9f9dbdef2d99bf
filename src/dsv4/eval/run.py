"""Ask, grade, log: many samples at once, each with a seed of its own, so that order is nothing.

seed of a sample = blake2b(seed, task, effort, sample)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from random import Random
from typing import Any

from dsv4.eval.generated.words import hay
from dsv4.eval.grade import Answer, Verdict, verdict_of
from dsv4.eval.log import Key, Log
from dsv4.eval.subject import (
    Ask,
    NoTokensError,
    Score,
    Subject,
    SubjectError,
    TooLongError,
    score,
)
from dsv4.eval.task import Sample, Task, window_of

LEAST = 16  # tokens that a reply needs at all


@dataclass(frozen=True)
class Plan:
    """What a run does: tasks (each at its effort), samples of each, the seed, how many at once."""

    tasks: Sequence[Task]
    limit: int | None = None
    seed: int = 0
    concurrency: int = 8
    temperature: float | None = None  # None: each task's own


def run(
    plan: Plan,
    subject: Subject,
    log: Log,
    progress: Callable[[Task, int, int], None] = lambda task, done, of: None,
) -> None:
    """Every sample that the log does not hold yet. Raises SubjectError; what is done is kept."""
    with ThreadPoolExecutor(plan.concurrency, "dsv4-eval") as threads:
        for task in plan.tasks:
            if too_small(task, subject.context):
                continue
            task = fitted(task, subject)
            done, count = 0, 0
            for sample in _samples(plan, task):  # twice, since long prompts are not all held
                count += 1
                done += (task.name, task.effort, sample.id) in log.rows
            progress(task, done, count)
            todo = (
                s for s in _samples(plan, task) if (task.name, task.effort, s.id) not in log.rows
            )
            for row in _rows(threads, plan, task, subject, todo):
                log.add(row)
                done += 1
                progress(task, done, count)


def _samples(plan: Plan, task: Task) -> Iterable[Sample]:
    return islice(task.samples(plan.seed), plan.limit)


def too_small(task: Task, context: int | None) -> str:
    """Why a task cannot be run with a subject's context; empty where it can."""
    if context is not None and task.needs > context:
        return f"needs {task.needs:,} tokens of context, the model has {context:,}"
    return ""


def fitted(task: Task, subject: Subject) -> Task:
    """A task whose length is in tokens, in those of the subject; where nobody counts, in the
    released tokenizer's."""
    if task.sized is None:
        return task
    text = " ".join(hay(Random(0), 100_000))
    try:
        tokens = len(subject.encode(text))
    except NoTokensError:
        return task
    return replace(task, samples=partial(task.sized, characters=len(text) / tokens))


def _rows(
    threads: ThreadPoolExecutor, plan: Plan, task: Task, subject: Subject, todo: Iterable[Sample]
) -> Iterable[dict[str, Any]]:
    """Rows as they come; graded here, since some graders need this thread. If the subject is lost
    nothing more is asked of it, and what was under way is finished first: it may be hours long."""
    waiting: set[Future[dict[str, Any]]] = set()
    left = iter(todo)
    lost: SubjectError | None = None
    try:
        while True:
            for sample in islice(left, 2 * plan.concurrency - len(waiting) if lost is None else 0):
                waiting.add(threads.submit(ask, plan, task, subject, sample))
            if not waiting:
                break
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    row = future.result()
                except SubjectError as error:
                    lost = lost or error
                    waiting = {other for other in waiting if not other.cancel()}
                    continue
                except CancelledError:
                    continue
                yield graded(row)
        if lost is not None:
            raise lost
    finally:
        for future in waiting:
            future.cancel()


def ask(plan: Plan, task: Task, subject: Subject, sample: Sample) -> dict[str, Any]:
    """One sample's row, not graded yet. Raises SubjectError."""
    seed = seed_of(plan.seed, (task.name, task.effort, sample.id))
    row: dict[str, Any] = {"task": task.name, "effort": task.effort, "sample": sample.id}
    row |= {"grader": task.grader, "target": sample.target, "hash": sample.hash, "seed": seed}
    try:
        if sample.pairs:
            scores = [score(subject, *pair) for pair in sample.pairs]
            sizes = [len(text.encode()) for _, text in sample.pairs]
            tokens = sum(one.tokens for one in scores)
            return (
                row
                | {"pairs": list(sample.pairs), "scores": scores, "nbytes": sizes}
                | {"prompt_tokens": tokens, "cached_tokens": 0, "completion_tokens": 0}
            )
        return row | _said(plan, task, subject, sample, seed)
    except TooLongError as error:
        return row | {"failed": str(error)}


def _said(plan: Plan, task: Task, subject: Subject, sample: Sample, seed: int) -> dict[str, Any]:
    temperature = task.temperature if plan.temperature is None else plan.temperature
    asked = Ask(
        sample.prompt,
        task.effort,
        task.max_tokens or LEAST,
        temperature,
        seed=seed,
        stop=task.stop,
        tools=sample.tools,
    )
    if task.max_tokens is None:
        window = min(window_of(task.effort), subject.context or window_of("max"))
        left = window - subject.count(asked)
        if left < LEAST:
            raise TooLongError(f"the prompt leaves {left} tokens of a window of {window:,}")
        asked = Ask(**{**asked.__dict__, "max_tokens": left})
    reply = subject.generate(asked)
    return {
        "prompt": sample.prompt,
        "tools": list(sample.tools),
        "max_tokens": asked.max_tokens,
        "temperature": temperature,
        "text": reply.text,
        "reasoning": reply.reasoning,
        "calls": list(reply.calls),
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "cached_tokens": reply.cached_tokens,
        "completion_tokens": reply.completion_tokens,
    }


def graded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its verdict: of a new one, or of a log's, whose verdict is formed anew."""
    if "failed" in row:
        verdict = Verdict("failed", 0.0, row["failed"])
    else:
        answer = Answer(
            row.get("text", ""),
            row.get("calls", ()),
            row.get("finish_reason", "stop"),
            [Score(*one) for one in row.get("scores", ())],
            row.get("nbytes", ()),
        )
        verdict = verdict_of(row["grader"], row["target"], answer)
    return dict(row) | {"grade": verdict.grade, "score": verdict.score, "reason": verdict.reason}


def seed_of(seed: int, key: Key) -> int:
    """A seed below 2^62 that depends on nothing else."""
    text = "\0".join((str(seed), *key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 2
