"""lm-eval's task definitions over our subjects, and our subjects as a model of lm-eval's.

A document becomes one sample: its likelihoods, or its one generation. lm-eval's own filters and
`process_results` grade it, so the score is lm-eval's; a reply that was cut is told, not zeroed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import groupby
from typing import Any

from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from dsv4.eval.grade.answer import Answer, Verdict, decided, share
from dsv4.eval.subject import Ask, Subject, score
from dsv4.eval.task import Sample, Task

MAIN = ("exact_match", "acc", "em", "f1", "pass@1", "acc_norm")  # of several metrics, the first
MOST_TOKENS = 256  # lm-eval's own, where a task names none
_loaded: dict[str, Any] = {}


class TaskError(ValueError):
    """A task that lm-eval does not have, cannot load, or that asks for what subjects cannot do."""


def task_of(name: str, parts: Sequence[str], row: Task, include: str | None = None) -> Task:
    """One task of all lm-eval tasks and groups in `parts`, under `name`; `row` says the rest.

    `include`: a folder of more definitions. Raises TaskError.
    """
    found: dict[str, Any] = {}
    try:
        manager = TaskManager(include_path=include)
        found = {task.config.task: task for task in manager.load(list(parts))["tasks"].values()}
    except Exception as error:  # anything, from a missing name to a hub that is not reached
        line = " ".join(str(error).split())[:200]
        raise TaskError(f"lm-eval cannot load {', '.join(parts)} ({line})") from error
    _loaded.update(found)
    kinds = {task.OUTPUT_TYPE for task in found.values()}
    if kinds - {"loglikelihood", "multiple_choice", "generate_until"}:
        raise TaskError(f"{name} asks for {', '.join(kinds)}: only texts and likelihoods are known")
    settings = {str(_settings(task)) for task in found.values() if _generates(task)}
    if len(settings) > 1:
        raise TaskError(f"{name} has tasks that generate in different ways: run them one by one")
    stop, most, temperature = next(
        (_settings(task) for task in found.values() if _generates(task)), ((), MOST_TOKENS, 0.0)
    )

    def samples(seed: int) -> Iterator[Sample]:
        for part, task in found.items():
            yield from _samples(part, task, row.metric)

    shots = max((task.config.num_fewshot or 0 for task in found.values()), default=0)
    return Task(
        name,
        row.title,
        samples,
        "lm_eval",
        row.metric,
        shots,
        None,  # lm-eval does not say what chance scores
        max_tokens=most,
        temperature=temperature,
        stop=stop,
        published=row.published,
    )


def grade(target: Mapping[str, Any], answer: Answer) -> Verdict:
    """What lm-eval makes of a document's results."""
    task = _loaded.get(target["task"])
    if task is None:
        raise TaskError(f"{target['task']} is not loaded: grade it with the suite that made it")
    instances = [copy(one) for one in _instances(task)[target["doc"]]]
    results: list[Any] = [answer.text]
    if answer.scores:
        results = [(one.logprob, one.greedy) for one in answer.scores]
    for instance, result in zip(instances, results, strict=True):
        instance.resps, instance.filtered_resps = [result], {}
    for one in task._filters:
        one.apply(instances)
    key = next(iter(instances[0].filtered_resps))
    metrics = task.process_results(
        instances[0].doc, [instance.filtered_resps[key] for instance in instances]
    )
    names = (target["metric"].lower(), *MAIN, *metrics)
    main = next(one for one in names if one in metrics)
    value = metrics[main]
    reason = ", ".join(f"{name} {v:g}" for name, v in metrics.items() if isinstance(v, int | float))
    verdict = share(float(value), reason) if 0 <= value <= 1 else decided(False, reason)
    if answer.finish_reason == "length":
        return Verdict("cut", verdict.score, f"cut, and graded as it is: {reason}")
    return verdict


class SubjectLM(LM):
    """A subject as lm-eval's model: `lm_eval.simple_evaluate(SubjectLM(subject), tasks=…)`."""

    def __init__(self, subject: Subject, concurrency: int = 8):
        super().__init__()
        self._subject, self._concurrency = subject, concurrency

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """See `LM`."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            found = threads.map(lambda one: score(self._subject, *one.args), requests)
            return [(one.logprob, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """See `LM`: of whole texts that fit into the context."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            found = threads.map(lambda one: score(self._subject, "", one.args[0]), requests)
            return [one.logprob for one in found]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """See `LM`."""

        def said(one: Any) -> str:
            stop, most, temperature = _kwargs(one.args[1])
            asked = Ask(one.args[0], "none", most, temperature, stop=stop)
            return self._subject.generate(asked).text

        with ThreadPoolExecutor(self._concurrency) as threads:
            return list(threads.map(said, requests))


def _instances(task: Any) -> dict[int, list[Any]]:
    """The requests of each document, in lm-eval's order; built once."""
    known: dict[int, list[Any]] | None = getattr(task, "_of_documents", None)
    if known is None:
        task.build_all_requests(limit=None, rank=0, world_size=1)
        ordered = sorted(task.instances, key=lambda one: (one.doc_id, one.idx))
        known = {n: list(group) for n, group in groupby(ordered, key=lambda one: one.doc_id)}
        task._of_documents = known
    return known


def _samples(name: str, task: Any, metric: str) -> Iterator[Sample]:
    for number, instances in _instances(task).items():
        target = {"task": name, "doc": number, "metric": metric}
        if _generates(task):
            yield Sample(f"{name}/{number}", target, instances[0].args[0])
        else:
            pairs = [(one.args[0], one.args[1]) for one in instances]
            yield Sample(f"{name}/{number}", target, pairs=pairs)


def _generates(task: Any) -> bool:
    return bool(task.OUTPUT_TYPE == "generate_until")


def _settings(task: Any) -> tuple[tuple[str, ...], int, float]:
    if not _generates(task):
        return (), MOST_TOKENS, 0.0
    (first, *_) = next(iter(_instances(task).values()))
    return _kwargs(first.args[1])


def _kwargs(given: Mapping[str, Any]) -> tuple[tuple[str, ...], int, float]:
    """Stop strings, tokens, temperature."""
    until = given.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    most = int(given.get("max_gen_toks", given.get("max_new_tokens", MOST_TOKENS)))
    sampled = given.get("do_sample", False)
    return stop, most, float(given.get("temperature", 1.0)) if sampled else 0.0
