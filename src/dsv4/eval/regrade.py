"""A log graded anew: verdicts alone change, and the file as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dsv4.atomic import replacing
from dsv4.eval.judge import Judge, unreached
from dsv4.eval.log import LogError, claim, key_of, line, read, samples
from dsv4.eval.run import rows
from dsv4.eval.subject import SubjectError
from dsv4.eval.task import Task


def regrade(
    path: Path,
    settings: Mapping[str, Any],
    tasks: Iterable[Task],
    judge: Judge | None = None,
    *,
    concurrency: int = 8,
    missing: bool = False,
) -> tuple[int, int]:
    """Grade every sample of a log again, and give it these settings: (samples, changed verdicts).

    A `judge` marks those of the tasks that have a rubric, or of them what is `missing` a mark;
    without one its old replies are read again. Raises LogError, also where the judge is lost; then
    the log is as it was.
    """
    rubrics = {(task.name, task.effort): task.rubric for task in tasks if task.rubric}

    def marked(row: dict[str, Any]) -> dict[str, Any]:
        if judge is None or (missing and not unreached(row)):
            return row
        rubric = rubrics.get((row["task"], row["effort"]))
        return judge.mark(row | {"rubric": rubric}) if rubric else row

    with path.open("rb") as held:
        claim(held, path)
        _, known, _ = read(path)
        old = {key: row["grade"] for key, row in known.items()}
        changed = 0
        with replacing(path) as stream, ThreadPoolExecutor(concurrency, "dsv4-judge") as threads:
            stream.write(line(settings))
            jobs = (partial(marked, row) for row in samples(path))
            try:
                for row in rows(threads, concurrency, jobs):
                    changed += row["grade"] != old[key_of(row)]
                    stream.write(line(row))
            except SubjectError as error:
                raise LogError(f"{path} is as it was, since {error}") from error
    return len(old), changed


def mark_missing(path: Path, tasks: Iterable[Task], judge: Judge, concurrency: int) -> None:
    """Have those marked that were answered when the judge could not be reached."""
    settings, known, _ = read(path)
    if any(unreached(row) for row in known.values()):
        regrade(path, settings, tasks, judge, concurrency=concurrency, missing=True)
