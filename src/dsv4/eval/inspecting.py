"""Inspect's task definitions over our subjects, and our subjects as models of Inspect's.

    asked  = solver(sample, replies of the subject, kept in order)
    graded = scorer(solver(sample, the same replies again))

A task's own solver asks: system prompts, choices, tools, a user who is played. Grading plays the
replies that were kept to it again and asks nobody, so a log is graded anew as it was at first.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from inspect_ai import Task as InspectTask
from inspect_ai._eval.context import init_model_context
from inspect_ai._eval.task.generate import task_generate
from inspect_ai.dataset import Sample as InspectSample
from inspect_ai.model import ChatMessageUser, GenerateConfig, Model, ModelName, get_model
from inspect_ai.scorer import Target, value_to_float
from inspect_ai.solver import TaskState
from inspect_ai.util import registry_create
from inspect_ai.util._store import init_subtask_store

from dsv4.eval.grade.answer import Answer, Verdict, decided, share, unparsed
from dsv4.eval.inspectmodel import JudgeError, Replies, SubjectAPI, UnfitError, chat_of
from dsv4.eval.subject import Ask, Reply, Subject, SubjectError, TooLongError
from dsv4.eval.task import Sample, Task, hash_of

_loaded: dict[str, InspectTask] = {}
_float = value_to_float()
T = TypeVar("T")


class TaskError(ValueError):
    """A task that Inspect does not have, cannot load, or that needs what is not here."""


def task_of(name: str, source: str, row: Task, arguments: Mapping[str, Any] | None = None) -> Task:
    """The task `source` (a name of inspect-evals', or FILE.py@NAME) under `name`; `row` says the
    rest. Raises TaskError."""
    try:
        found = registry_create("task", _registered(source), **arguments or {})
        samples = sorted(found.dataset, key=_id_of)
    except Exception as error:  # anything, from a missing name to a hub that is not reached
        line = " ".join(str(error).split())[:200]
        raise TaskError(f"Inspect cannot load {source} ({line or type(error).__name__})") from error
    if found.sandbox is not None or any(sample.sandbox is not None for sample in samples):
        raise TaskError(
            f"{source} needs a container: run it with Inspect itself, with get_model('dsv4/x', "
            "subject=…) of dsv4.eval.inspectmodel"
        )
    _loaded[name] = found

    def listed(seed: int) -> Iterator[Sample]:
        for number, sample in enumerate(samples):
            target = {"task": name, "metric": row.metric, "sample": sample.model_dump(mode="json")}
            yield Sample(f"{number}-{_id_of(sample)}"[:80], target, chat_of(_messages(sample)))

    def talk(subject: Subject, sample: Sample, first: Ask) -> dict[str, Any]:
        return _talk(name, subject, sample, first, first.temperature != warmth)

    given = found.config.temperature
    warmth = row.temperature if given is None else given
    return Task(
        name,
        row.title,
        listed,
        "inspect",
        row.metric,
        row.shots,
        None,  # who says nothing may pass, as where a refusal is right
        temperature=warmth,
        effort=row.effort,
        published=row.published,
        talk=talk,
    )


def grade(target: Mapping[str, Any], answer: Answer) -> Verdict:
    """What the task's own scorer makes of the replies."""
    found = _task(target["task"])
    replies = [Reply(**one["reply"]) for one in answer.talk]
    played = Replies.again(replies, [one["hash"] for one in answer.talk])
    try:
        scores = _run(_scores(found, target["sample"], played), played)
    except JudgeError as error:
        return Verdict("unjudged", None, str(error))
    except UnfitError as error:
        raise TaskError(f"{target['task']}: {error}") from error
    except Exception as error:  # the task's own, on a reply that it did not expect
        return Verdict("failed", 0.0, f"the task failed ({type(error).__name__}: {error})"[:300])
    if not scores or scores[0] is None:
        return unparsed("its scorer gives no score")
    value = scores[0].value
    if isinstance(value, Mapping):
        key = target["metric"].lower()
        value = value[key] if key in value else next(iter(value.values()))
    said = scores[0].explanation or scores[0].answer or ""
    score = _float(value)
    reason = f"{value}: {' '.join(str(said).split())[:200]}"
    verdict = share(score, reason) if 0 <= score <= 1 else decided(False, reason)
    if answer.finish_reason == "length":
        return Verdict("cut", verdict.score, f"cut, and graded as it is: {reason}")
    return verdict


def _talk(name: str, subject: Subject, sample: Sample, first: Ask, forced: bool) -> dict[str, Any]:
    """What was said in a conversation, as a row has it. Raises SubjectError, TooLongError."""
    replies = Replies.of(subject, first, forced)
    failed = {}
    try:
        _run(_solved(_task(name), sample.target["sample"], replies), replies)
    except UnfitError as error:
        raise TaskError(f"{name}: {error}") from error
    except (SubjectError, TooLongError):
        raise
    except Exception as error:  # the task's own, on a reply that it did not expect
        failed = {"failed": f"the task failed ({type(error).__name__}: {error})"[:300]}
    said = [one for one, _ in replies.kept]
    last = said[-1] if said else Reply("")
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens")
    return {
        "hash": hash_of(replies.first),
        "prompt": replies.first[0] if replies.first else sample.prompt,
        "temperature": first.temperature,
        "talk": [{"reply": vars(one), "hash": key} for one, key in replies.kept],
        "text": last.text,
        "reasoning": last.reasoning,
        "calls": list(last.calls),
        "finish_reason": last.finish_reason,
        **{kind: sum(getattr(one, kind) for one in said) for kind in tokens},
        **failed,
    }


def _run(work: Coroutine[Any, Any, T], replies: Replies) -> T:
    """What comes of it. Raises what ended the conversation."""
    try:
        return asyncio.run(work)
    except BaseException:
        if replies.ended is None:
            raise
        raise replies.ended from None


async def _solved(found: InspectTask, given: Mapping[str, Any], replies: Replies) -> TaskState:
    """The state behind a task's solver."""
    model = get_model("dsv4/subject", memoize=False, config=found.config, replies=replies)
    init_model_context(model, {"grader": model}, found.config)
    sample = InspectSample.model_validate(given)
    state = TaskState(
        model=ModelName(model),
        sample_id=sample.id or 0,
        epoch=1,
        input=sample.input,
        messages=_messages(sample),
        target=Target(sample.target),
        choices=sample.choices,
        metadata=dict(sample.metadata or {}),
    )
    init_subtask_store(state.store)
    return await found.solver(state, _generate(model, found.config))


async def _scores(found: InspectTask, given: Mapping[str, Any], replies: Replies) -> list[Any]:
    state = await _solved(found, given, replies)
    replies.close("its scorer asks a model: Inspect's own run can name one")
    return [await scorer(state, state.target) for scorer in (found.scorer or [])[:1]]


def _generate(model: Model, config: GenerateConfig) -> Callable[..., Any]:
    async def generate(
        state: TaskState, tool_calls: Any = "loop", cache: Any = False, **more: Any
    ) -> TaskState:
        merged = config.merge(GenerateConfig(**more))
        return await task_generate(model, state, tool_calls, False, merged)

    return generate


def _messages(sample: InspectSample) -> list[Any]:
    if isinstance(sample.input, str):
        return [ChatMessageUser(content=sample.input)]
    return list(sample.input)


def _registered(source: str) -> str:
    """The name by which Inspect knows a task; that of a file once it was run."""
    file, _, name = source.rpartition("@")
    if not file.endswith(".py"):
        return source if "/" in source else f"inspect_evals/{source}"
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"inspect_task_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return name


def _id_of(sample: InspectSample) -> str:
    """What tells a sample from others whatever order they come in."""
    if sample.id is not None:
        return str(sample.id)
    asked = json.dumps(chat_of(_messages(sample)), sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _task(name: str) -> InspectTask:
    if name not in _loaded:
        raise TaskError(f"{name} is not loaded: grade it with the suite that made it")
    return _loaded[name]


__all__: Sequence[str] = ["SubjectAPI", "TaskError", "grade", "task_of"]
