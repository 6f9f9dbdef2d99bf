"""Ask, mark, grade, log: many samples at once; each has a seed of its own, so order is nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

from dsv4.eval.asking import ask, graded
from dsv4.eval.generated.words import hay
from dsv4.eval.judge import Judge
from dsv4.eval.log import Log
from dsv4.eval.subject import NoTokensError, Subject, SubjectError
from dsv4.eval.task import Sample, Task

Row = dict[str, Any]
GLANCE = 0.2  # seconds between two looks at whether to stop


@dataclass(frozen=True)
class Plan:
    """What a run does: tasks (each at its effort), samples of each, the seed, how many at once;
    `judge` marks those that have a rubric."""

    tasks: Sequence[Task]
    limit: int | None = None
    seed: int = 0
    concurrency: int = 8
    temperature: float | None = None  # None: each task's own
    judge: Judge | None = None


def run(
    plan: Plan,
    subject: Subject,
    log: Log,
    progress: Callable[[Task, int, int], None] = lambda task, done, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Every sample that the log does not hold yet, until `stop` says so; then those under way are
    finished. Whether all were asked. Raises SubjectError; what is done is kept. KeyboardInterrupt
    waits for nothing."""
    threads, hurried = ThreadPoolExecutor(plan.concurrency, "dsv4-eval"), False
    try:
        return _asked(plan, subject, log, progress, stop, threads)
    except KeyboardInterrupt:
        hurried = True
        raise
    finally:
        threads.shutdown(not hurried, cancel_futures=hurried)


def _asked(
    plan: Plan,
    subject: Subject,
    log: Log,
    progress: Callable[[Task, int, int], None],
    stop: Callable[[], bool],
    threads: ThreadPoolExecutor,
) -> bool:
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
            partial(_answered, plan, task, subject, sample)
            for sample in _samples(plan, task)
            if (task.name, task.effort, sample.id) not in log.rows
        )
        for row in rows(threads, plan.concurrency, todo, stop):
            log.add(row)
            done += 1
            progress(task, done, count)
        if stop():
            return False
    return True


def _answered(plan: Plan, task: Task, subject: Subject, sample: Sample) -> Row:
    row = ask(task, subject, sample, plan.seed, plan.temperature)
    return row if plan.judge is None else plan.judge.mark(row)


def _samples(plan: Plan, task: Task) -> Iterator[Sample]:
    """As many as the limit lets be asked, and those that are left out among them."""
    asked = 0
    for sample in task.samples(plan.seed):
        yield sample
        asked += not sample.left_out
        if asked == plan.limit:
            return


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


def rows(
    threads: ThreadPoolExecutor,
    concurrency: int,
    jobs: Iterator[Callable[[], Row]],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Row]:
    """Rows as they come; graded here, since some graders need this thread. If the subject or the
    judge is lost nothing more is asked, and what was under way is finished first: it may be hours
    long. Raises SubjectError then. `stop` ends them in the same way."""
    waiting: set[Future[Row]] = set()
    lost: SubjectError | None = None
    try:
        while True:
            over = lost is not None or stop()
            for job in islice(jobs, 0 if over else 2 * concurrency - len(waiting)):
                waiting.add(threads.submit(job))
            if not waiting:
                break
            done, waiting = wait(waiting, GLANCE, FIRST_COMPLETED)
            for future in done:
                try:
                    row = future.result()
                except SubjectError as error:
                    lost = lost or error
                except CancelledError:
                    pass
                else:
                    if why := row.get("judged", {}).get("error"):
                        lost = lost or SubjectError(f"the judge: {why}")
                    yield graded(row)
            if lost is not None or stop():
                waiting = {other for other in waiting if not other.cancel()}
        if lost is not None:
            raise lost
    finally:
        for future in waiting:
            future.cancel()
