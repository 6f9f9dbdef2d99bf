"""lm-eval's task definitions over our subjects, and our subjects as a model of lm-eval's.

A document becomes one sample: its likelihoods, or its one generation. lm-eval's own filters and
`process_results` grade it, and its aggregations make the scores (`lmgrade`), so that they are
lm-eval's; a reply that was cut is told, not zeroed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from typing import Any

from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from dsv4.eval.lmgrade import TaskError, instances_of, loaded, readings
from dsv4.eval.subject import Ask, Subject, score
from dsv4.eval.task import Sample, Task

MOST_TOKENS = 256  # lm-eval's own, where a task names none
FEW_SHOT_SEED = 1234  # lm-eval's own
TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
KNOWN = ("until", "do_sample", "temperature", "top_p", *TOKENS)
NEUTRAL = (None, False, 0, 1, -1)  # of settings that subjects do not have
ROLLING = "loglikelihood_rolling"
CODE = "HF_ALLOW_CODE_EVAL"  # what the library that runs programs itself asks for


def task_of(name: str, parts: Sequence[str], row: Task | None, include: str | None = None) -> Task:
    """One task of all lm-eval tasks and groups in `parts`, under `name`; `row` is that of a table.

    `include`: a folder of more definitions. Raises TaskError.
    """
    try:
        found = _load(list(parts), include)
        tasks: dict[str, Any] = dict(found["tasks"])
        for task in tasks.values():
            _allow(task)
            task.set_fewshot_seed(seed=FEW_SHOT_SEED)
        kinds = {kind for task in tasks.values() for kind in _kinds(task)}
    except TaskError:
        raise
    except Exception as error:  # anything, from a missing name to a hub that is not reached
        line = " ".join(str(error).split())[:200]
        raise TaskError(f"lm-eval cannot load {', '.join(parts)} ({line})") from error
    if ROLLING in kinds and len(kinds) > 1:
        raise TaskError(f"{name} has {', '.join(sorted(kinds))} at once: run its tasks one by one")
    loaded.update(tasks)
    sums = found["groups"][parts[0]].aggregate_metric_list if parts[0] in found["groups"] else None
    chosen = _chosen(row, sums[0] if sums and len(parts) == 1 else None)

    def samples(seed: int) -> Iterator[Sample]:
        for part, task in tasks.items():
            yield from _samples(part, task, chosen)

    weighted = not sums or len(parts) > 1 or sums[0].weight_by_size
    return Task(
        name,
        parts[0] if row is None else row.title,
        samples,
        "lm_eval_perplexity" if ROLLING in kinds else "lm_eval",
        "lm-eval's" if row is None else row.metric,
        max((task.config.num_fewshot or 0 for task in tasks.values()), default=0),
        None,  # lm-eval does not say what chance scores
        max_tokens=MOST_TOKENS,
        temperature=0.0,
        published={} if row is None else row.published,
        readings=partial(readings, weighted, "" if row is None else row.metric),
    )


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
        """See `LM`."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            found = threads.map(lambda one: score(self._subject, "", one.args[0]), requests)
            return [one.logprob for one in found]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """See `LM`."""

        def said(one: Any) -> str:
            return self._subject.generate(Ask(one.args[0], "none", **_settings(one.args[1]))).text

        with ThreadPoolExecutor(self._concurrency) as threads:
            return list(threads.map(said, requests))


def _load(parts: list[str], include: str | None) -> Any:
    """lm-eval's tasks and groups; a folder's own are found without its index of thousands."""
    if include is not None:
        with suppress(Exception):  # what these lack is found, or told, below
            return TaskManager(include_path=include, include_defaults=False).load(parts)
    return _manager(include).load(parts)


@cache
def _manager(include: str | None) -> Any:
    return TaskManager(include_path=include)


def _allow(task: Any) -> None:
    """Raises TaskError for what subjects cannot do, or what nobody has allowed."""
    name = task.config.task
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"{name} shows pictures or sounds: only texts are known")
    if getattr(task, "UNSAFE_CODE", False) and os.environ.get(CODE) != "1":
        raise TaskError(
            f"{name} runs what the model wrote, without bounds: {CODE}=1 allows it (humaneval and "
            "mbpp of our own run it in a sandbox)"
        )
    if task.config.repeats > 1:
        raise TaskError(
            f"{name} asks for {task.config.repeats} replies to a question: one is asked"
        )


def _kinds(task: Any) -> set[str]:
    """Kinds of its requests. Raises TaskError for those that are unknown, or for two at once."""
    name, known = task.config.task, {"loglikelihood", "generate_until", ROLLING}
    for instances in instances_of(task).values():
        kinds = {one.request_type for one in instances}
        if len(kinds) > 1 or kinds - known or (len(instances) > 1 and kinds != {"loglikelihood"}):
            raise TaskError(
                f"{name} asks for {len(instances)} times {', '.join(sorted(kinds))} at once: only "
                "a reply, a text or likelihoods of a document are known"
            )
        if "generate_until" in kinds:
            _settings(instances[0].args[1])
        return kinds
    return set()


def _chosen(row: Task | None, sums: Any) -> dict[str, str]:
    """The metric and the filter that come first, where a table or a group names them."""
    out = {"metric": row.metric if row is not None else sums.metric if sums is not None else ""}
    if sums is not None and sums.filter_list:
        out["filter"] = sums.filter_list[0]
    return out


def _samples(name: str, task: Any, chosen: Mapping[str, str]) -> Iterator[Sample]:
    for number, instances in instances_of(task).items():
        target = {"task": name, "doc": number, **chosen}
        first, label = instances[0], f"{name}/{number}"
        if first.request_type == "generate_until":
            yield Sample(label, target, first.args[0], settings=_settings(first.args[1]))
        elif first.request_type == ROLLING:
            yield Sample(label, target, pairs=[("", first.args[0])])
        else:
            yield Sample(label, target, pairs=[(one.args[0], one.args[1]) for one in instances])


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """How a request is generated, as fields of `Ask`. Raises TaskError."""
    if other := [f"{k}={v}" for k, v in given.items() if k not in KNOWN and v not in NEUTRAL]:
        raise TaskError(f"a task generates with {', '.join(other)}: subjects have no such setting")
    until = given.get("until") or ()
    until = (until,) if isinstance(until, str) else until
    most = next((int(given[key]) for key in TOKENS if given.get(key) is not None), MOST_TOKENS)
    warmth = given.get("temperature")
    sampled = given.get("do_sample")
    sampled = bool(warmth) if sampled is None else sampled
    return {
        "max_tokens": most,
        "temperature": float(1.0 if warmth is None else warmth) if sampled else 0.0,
        "top_p": float(given.get("top_p") or 1.0) if sampled else 1.0,
        "stop": tuple(one for one in until if one),
    }
