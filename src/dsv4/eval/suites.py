"""Names → tasks: the release's rows, generated tests, single tasks, files of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from dsv4.eval import catalog, generated
from dsv4.eval.agent import custom
from dsv4.eval.agent.environment import Environment
from dsv4.eval.agent.loop import Limits
from dsv4.eval.dataset import from_file
from dsv4.eval.task import Sample, Task

SUITES = ("smoke", "base", "instruct", "modes", "generated")
SMOKE = {  # tasks and their samples: a minute with the small model
    "copy": 4,
    "key_value": 4,
    "arithmetic_1": 4,
    "tool_call": 2,
    "chain_2": 2,
    "next_of_series": 4,
    "notes_2": 2,
}
SMOKE_TOKENS = 48
LM_EVAL, INSPECT = "lm-eval:", "inspect:"
EFFORTS = ("none", "high", "max")
DISCARDING = ("browsecomp",)  # agents that begin anew where the window is full


@dataclass(frozen=True)
class Means:
    """What a user has given to run rows with."""

    data: Mapping[str, str]
    hub: bool
    judged: bool
    environment: Callable[[Sample], Environment] | None

    def lacks(self, entry: catalog.Entry) -> list[str]:
        """What a row needs beside its questions, and is not given."""
        out = []
        if entry.tools and self.environment is None:
            out.append("web search and Python for the agent (--tools FILE.py:NAME)")
        if entry.runs == "judge" and not self.judged:
            out.append("a judge (--judge URL)")
        return out


NOTHING = Means({}, False, False, None)


class Suite:
    """Tasks in order, and for each row that cannot be run here what it needs."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.notes: dict[str, str] = {}

    def add(self, task: Task, note: str = "") -> None:
        """One more, or a row that says what it needs."""
        if (task.name, task.effort) not in [(one.name, one.effort) for one in self.tasks]:
            self.tasks.append(task)
        if note:
            self.notes[task.name] = note


def suite_of(
    names: Sequence[str],
    *,
    effort: str | None = None,
    data: Mapping[str, str] | None = None,
    hub: bool = False,
    include: str | None = None,
    judged: bool = False,
    tools: str | None = None,
) -> Suite:
    """The tasks of suites and names. `effort`: of chats, by default none (in `modes` all three).
    `data`: files or dataset ids of tasks by name. `hub`: rows that lm-eval or Inspect define load
    their data from there; `lm-eval:NAME` (also of the definitions in `include`) and `inspect:NAME`
    always do. `judged`: there is a judge, who marks the rows that have a rubric. `tools`: see
    `agent.custom`, for the rows whose agents need tools that are not here. Raises ValueError for a
    name that there is not, and for data of a row whose judge or tools are missing.
    """
    out, given = Suite(), dict(data or {})
    means = Means(given, hub, judged, None if tools is None else custom.environment_of(tools))
    made = {task.name: task for task in generated.tasks()}
    for name in sorted(names, key=lambda one: one == "smoke"):  # a task that is named is whole
        if name in (LM_EVAL, INSPECT):
            raise ValueError(f"{name} is no task yet: name one behind it, {name}NAME")
        if name == "smoke":
            for word, count in SMOKE.items():
                out.add(_few(made[word], count, effort or "none"))
        elif name == "generated":
            for task in made.values():
                out.add(task.at(effort or "none"))
        elif name in SUITES:
            suite = "base" if name == "base" else "instruct"
            for entry in catalog.entries().values():
                if entry.suite == suite:
                    for word in EFFORTS if name == "modes" else (effort or "none",):
                        _add_row(out, entry, word, means)
        elif name.startswith(LM_EVAL):
            out.add(_lm_eval(name, [name.removeprefix(LM_EVAL)], None, include))
        elif name.startswith(INSPECT):
            source = name.removeprefix(INSPECT)
            row = Task(name, source.rpartition("@")[2], lambda seed: (), "inspect", "ACC")
            out.add(_inspect(source, row.at(effort or "none")))
        elif name in made:
            out.add(made[name].at(effort or "none"))
        else:
            _add_named(out, name, effort or "none", means)
    if unknown := set(given) - {task.name for task in out.tasks} - _shorts(out):
        raise ValueError(f"--data {min(unknown)}=…: no such task is asked for")
    return out


def known() -> list[str]:
    """Every name that `suite_of` takes."""
    from dsv4.eval import packaged

    made = [task.name for task in generated.tasks()]
    return [*SUITES, *made, *catalog.entries(), *packaged.EXTRA, *packaged.DIALOGUES]


def _lm_eval(name: str, parts: Sequence[str], row: Task | None, include: str | None) -> Task:
    try:
        from dsv4.eval.lmeval import task_of
    except ImportError as error:
        raise ValueError(f"{name} needs lm-eval ({error}): pip install 'dsv4[lm-eval]'") from error
    return task_of(name, parts, row, include)


def _inspect(source: str, row: Task, **arguments: Any) -> Task:
    try:
        from dsv4.eval.inspecting import task_of
    except ImportError as error:
        raise ValueError(
            f"{row.name} needs inspect-evals ({error}): pip install 'dsv4[inspect]'"
        ) from error
    return task_of(row.name, source, row, arguments)


def _shorts(suite: Suite) -> set[str]:
    return {task.name.rpartition("/")[2] for task in suite.tasks}


def _few(task: Task, count: int, effort: str) -> Task:
    def samples(seed: int) -> list[Sample]:
        return generated.first(task.samples(seed), count)

    most = min(task.max_tokens or SMOKE_TOKENS, SMOKE_TOKENS)
    return replace(task, samples=samples, max_tokens=most, effort=effort)


def _add_named(out: Suite, name: str, effort: str, means: Means) -> None:
    from dsv4.eval import packaged

    rows = [e for e in catalog.entries().values() if name in (e.name, e.short)]
    if len(rows) > 1:
        raise ValueError(f"{name} is {' and '.join(e.name for e in rows)}: name one of them")
    if rows:
        _add_row(out, rows[0], effort, means)
    elif name in packaged.EXTRA:
        out.add(packaged.EXTRA[name]())
    elif name in packaged.DIALOGUES:
        row = Task(name, packaged.DIALOGUES[name], lambda seed: (), "inspect", "Pass@1")
        out.add(_inspect(name, row.at(effort), shuffle=False))
    else:
        raise ValueError(
            f"there is no task {name!r}: choose from {', '.join(_near(name))}, … (--list)"
        )


def _near(name: str) -> list[str]:
    """Names that hold it, or else that are written much like it."""
    word, names = name.lower(), known()
    held = [one for one in names if word and word in one]
    alike = get_close_matches(word, [*names, *(one.rpartition("/")[2] for one in names)], 5)
    return held or list(dict.fromkeys(alike)) or list(SUITES)


def _add_row(out: Suite, entry: catalog.Entry, effort: str, means: Means) -> None:
    from dsv4.eval import packaged

    source = means.data.get(entry.name) or means.data.get(entry.short)
    columns = entry.columns(None if entry.suite == "base" else effort)
    row = Task(
        entry.name,
        entry.title,
        lambda seed: (),
        entry.grader or "exact",
        entry.metric,
        entry.shots,
        effort="none" if entry.suite == "base" else effort,
        rubric=entry.rubric if means.judged else "",
        published=columns,
    )
    if source is not None:
        if missing := means.lacks(entry):
            raise ValueError(f"{entry.name} needs {' and '.join(missing)}")
        if entry.tools:
            limits = Limits(discard=entry.short in DISCARDING)
            row = replace(row, environment=means.environment, limits=limits)
        out.add(from_file(row, entry, source))
    elif means.hub and (entry.lm_eval or entry.inspect):
        try:
            out.add(_defined(entry, row))
        except ValueError as error:
            out.add(row, str(error))
    elif entry.runs == "here":
        out.add(replace(packaged.TASKS[entry.short](), published=columns))
    else:
        needs = "needs" if entry.runs == "environment" else "runs with"
        given = "" if entry.runs == "environment" else f" (--data {entry.short}=…)"
        given = " (--hub)" if entry.lm_eval or entry.inspect else given
        out.add(row, "; and ".join([f"{needs} {entry.how}{given}", *means.lacks(entry)]))


def _defined(entry: catalog.Entry, row: Task) -> Task:
    """A row as lm-eval, or else Inspect, defines it, its data loaded from the hub."""
    if entry.lm_eval:
        return _lm_eval(entry.name, entry.lm_eval, row, None)
    return _inspect(entry.inspect, row)
