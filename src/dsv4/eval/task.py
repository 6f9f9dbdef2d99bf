"""A task: samples, how they are asked, by whom they are graded, and what chance scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dsv4.eval.agent.environment import Environment
from dsv4.eval.agent.loop import Limits
from dsv4.eval.subject import Ask, Subject

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sample:
    """One question. `prompt` is said to the subject; where there are `pairs` (context,
    continuation) those are scored instead. `target` is what the grader compares with, `setup` what
    an agent's environment begins with: JSON. `left_out` says why it is not asked: such a sample is
    counted as that. `settings`: fields of `Ask` that are not the task's."""

    id: str
    target: Any
    prompt: str | Messages = ""
    pairs: Sequence[tuple[str, str]] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    setup: Any = None
    left_out: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Of all that the subject is given."""
        return hash_of(
            [self.prompt, self.pairs, self.tools, *([] if self.setup is None else [self.setup])]
        )


def average(items: Sequence[Any]) -> float:
    """The mean of numbers."""
    return float(np.mean(items))


@dataclass(frozen=True)
class Reading:
    """One score of a task's replies, where there may be several: `total` of the `items`, one for
    each sample that counts. `name`: how the replies were read. `scale`: what tables multiply it
    with. `draws`: resampled totals of its interval; `published`: whether it is the one that the
    published columns stand beside."""

    name: str
    metric: str
    items: Sequence[Any]
    total: Callable[[Sequence[Any]], float] = average
    scale: float = 100.0
    draws: int = 1_000
    published: bool = True


@dataclass(frozen=True)
class Task:
    """`samples(seed)` gives them in a fixed order. `grader` is a name of GRADERS, `chance` the
    score of who knows nothing, None where it is not known. `max_tokens` None: what the window of
    the effort leaves. `needs`: tokens of context; `sized` gives its samples in tokens of so many
    characters. `scale`: what the mean of scores is multiplied with in tables. `rubric`: that by
    which a judge marks, in the grader's place. `environment`: where an agent works, within
    `limits`; `max_tokens` are then those of each reply. `talk` asks in its own way, and gives the
    part of the row that tells of it. `readings`: the scores of graded rows, where they are not the
    mean of theirs; the first is the task's own."""

    name: str
    title: str
    samples: Callable[[int], Iterable[Sample]]
    grader: str
    metric: str = "EM"
    shots: int = 0
    chance: float | None = 0.0
    max_tokens: int | None = None
    temperature: float = 1.0
    stop: Sequence[str] = ()
    effort: str = "none"
    needs: int = 0
    talk: Callable[[Subject, Sample, Ask], dict[str, Any]] | None = None
    sized: Callable[..., Iterable[Sample]] | None = None
    scale: float = 100.0
    rubric: str = ""
    environment: Callable[[Sample], Environment] | None = None
    limits: Limits = field(default_factory=Limits)
    readings: Callable[[Sequence[Mapping[str, Any]]], list[Reading]] | None = None
    published: Mapping[str, float | None] = field(default_factory=dict)

    def at(self, effort: str) -> Task:
        """The same task at another effort; who reasons has the tokens of that mode's window."""
        most = self.max_tokens if effort == "none" else None
        return replace(self, effort=effort, max_tokens=most)


WINDOWS = {"none": 8_192, "high": 131_072, "max": 393_216}  # tokens of prompt and reply, by mode


def window_of(effort: str) -> int:
    """Tokens that prompt and reply may have at an effort."""
    if effort in ("max", "ultra"):
        return WINDOWS["max"]
    return WINDOWS["none"] if effort == "none" else WINDOWS["high"]


def hash_of(told: Any) -> str:
    """Of what somebody is told: JSON."""
    text = json.dumps(told, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def user(text: str) -> list[dict[str, str]]:
    """A chat of one message."""
    return [{"role": "user", "content": text}]
