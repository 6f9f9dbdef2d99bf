"""What lm-eval makes of a reply: each of its filters and metrics, and the scores of a whole task.

value = process_results(filter(reply))      score of a task = aggregation(its values)
score of a group = mean of its tasks', by their samples unless the group says otherwise
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import groupby
from typing import Any

from lm_eval.api.metrics import mean

from dsv4.eval.grade.answer import Answer, Verdict, decided, share
from dsv4.eval.task import Reading, average

MAIN = ("exact_match", "acc", "em", "f1", "pass@1", "acc_norm")  # of several metrics, the first
CHOSEN = ("f1", "mcc")  # metrics whose values are (right, chosen)
RAW = re.compile(r"(bleu|rouge|chrf|ter)([_+].*)?|likelihood")  # no shares of one
SLOW = re.compile(r"(bleu|chrf|ter)([_+].*)?|f1|mcc")
Value = tuple[str, str, Any]  # filter, metric, what process_results gives
Item = tuple[str, str, Any]  # task, metric, value

loaded: dict[str, Any] = {}


class TaskError(ValueError):
    """A task that lm-eval does not have, cannot load, or that asks for what subjects cannot do."""


def instances_of(task: Any) -> dict[int, list[Any]]:
    """The requests of each document, in lm-eval's order; built once."""
    known: dict[int, list[Any]] | None = getattr(task, "_of_documents", None)
    if known is None:
        task.build_all_requests(limit=None, rank=0, world_size=1)
        ordered = sorted(task.instances, key=lambda one: (one.doc_id, one.idx))
        known = {n: list(group) for n, group in groupby(ordered, key=lambda one: one.doc_id)}
        task._of_documents = known
    return known


def grade(target: Mapping[str, Any], answer: Answer) -> Verdict:
    """What lm-eval makes of a document's results; of several filters and metrics the verdict is the
    first's, and `values` holds all, that one before the others."""
    task = loaded.get(target["task"])
    if task is None:
        raise TaskError(f"{target['task']} is not loaded: grade it with the suite that made it")
    values = _values(task, target, answer)
    _, metric, value = values[0]
    several = len({name for name, *_ in values}) > 1
    reason = ", ".join(
        f"{f'{name} ' if several else ''}{key} {_shown(one)}" for name, key, one in values
    )
    verdict = _verdict(task, metric, value, reason)._replace(values=values)
    if answer.finish_reason == "length":
        return verdict._replace(grade="cut", reason=f"cut, and graded as it is: {reason}")
    return verdict


def readings(weighted: bool, metric: str, rows: Sequence[Mapping[str, Any]]) -> list[Reading]:
    """The scores of some graded samples: that of each one's first value, then those of the others
    by filter and metric. `weighted`: a group's tasks count by their samples; `metric` names the
    first, empty for lm-eval's name."""
    columns: dict[tuple[str, str] | None, list[Item]] = {}
    for row in rows:
        for number, (name, key, value) in enumerate(row.get("values", ())):
            item = (row["target"]["task"], key, value)
            columns.setdefault((name, key) if number else None, []).append(item)
    filters = {name for row in rows for name, *_ in row.get("values", ())}
    out = []
    for column, items in columns.items():
        if column is None:
            firsts = {tuple(row["values"][0][:2]) for row in rows if row.get("values")}
            name, key = firsts.pop() if len(firsts) == 1 else ("", metric or "ACC")
            key = metric or key
        else:
            name, key = column
        usual = "acc" if column is None else None
        zeros = [item for row in rows if "failed" in row for item in _zero(row, items, usual)]
        shown = name if len(filters) > 1 else ""
        out.append(_reading(shown, key, [*items, *zeros], weighted, column is None))
    return out


def _values(task: Any, target: Mapping[str, Any], answer: Answer) -> list[Value]:
    instances = [copy(one) for one in instances_of(task)[target["doc"]]]
    results: list[Any] = [answer.text]
    if answer.scores:
        rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
        results = [one.logprob if rolling else (one.logprob, one.greedy) for one in answer.scores]
    for instance, result in zip(instances, results, strict=True):
        instance.resps, instance.filtered_resps = [result], {}
    for one in task._filters:
        one.apply(instances)
    found: list[Value] = []
    for key in instances[0].filtered_resps:
        said = [instance.filtered_resps[key] for instance in instances]
        metrics = task.process_results(instances[0].doc, said)
        found += [(key, name, _plain(value)) for name, value in metrics.items()]
    name = target.get("filter") or found[0][0]
    metrics = {metric for key, metric, _ in found if key == name} or {found[0][1]}
    names = (target["metric"].lower(), *MAIN, *(metric for _, metric, _ in found))
    main = next(one for one in names if one in metrics)
    return sorted(found, key=lambda value: value[:2] != (name, main))


def _verdict(task: Any, metric: str, value: Any, reason: str) -> Verdict:
    """Of one document: what its metric is for it alone."""
    total = _aggregation(task, metric)
    score: float | None = None
    try:
        if metric in CHOSEN and isinstance(value, list):
            return decided(value[0] == value[1], reason)
        score = float(value if total is mean else total([value]))
    except Exception:  # a metric of many documents may have no value for one
        return Verdict("partial", None, reason)
    if _more_is_better(task, metric) and 0 <= score <= 1:
        return share(score, reason)
    return Verdict("partial", score, reason)


def _reading(name: str, metric: str, items: Sequence[Item], weighted: bool, main: bool) -> Reading:
    parts = {part: key for part, key, _ in items}
    totals = {part: _aggregation(loaded[part], key) for part, key in parts.items()}
    share = all(_is_share(loaded[part], key) for part, key in parts.items())
    more: dict[str, Any] = {"scale": 100.0 if share else 1.0, "published": main}
    if all(total is mean for total in totals.values()) and (weighted or len(parts) == 1):
        return Reading(name, metric, [float(value) for *_, value in items], average, **more)
    if any(SLOW.fullmatch(key) for key in parts.values()):
        more["draws"] = 100
    return Reading(name, metric, items, partial(_total, totals, weighted), **more)


def _total(
    totals: Mapping[str, Callable[[list[Any]], float]], weighted: bool, items: Sequence[Item]
) -> float:
    values: dict[str, list[Any]] = {}
    for part, _, value in items:
        values.setdefault(part, []).append(value)
    with warnings.catch_warnings(action="ignore"):  # of samples drawn that have one label alone
        scores = [float(totals[part](mine)) for part, mine in values.items()]
    sizes = [len(mine) if weighted else 1 for mine in values.values()]
    return sum(score * size for score, size in zip(scores, sizes, strict=True)) / sum(sizes)


def _zero(row: Mapping[str, Any], items: Sequence[Item], usual: str | None) -> list[Item]:
    """What a sample that failed adds to its task's values: a zero where the score is their mean.
    `usual`: the metric where all of the task's samples failed."""
    part = row["target"]["task"]
    metric = next((key for mine, key, _ in items if mine == part), usual)
    if metric is None or row["score"] is None or _aggregation(loaded[part], metric) is not mean:
        return []
    return [(part, metric, 0.0)] if _more_is_better(loaded[part], metric) else []


def _aggregation(task: Any, metric: str) -> Callable[[list[Any]], float]:
    found: Callable[[list[Any]], float] = task.aggregation().get(metric, mean)
    return found


def _more_is_better(task: Any, metric: str) -> bool:
    return bool(task.higher_is_better().get(metric, True))


def _is_share(task: Any, metric: str) -> bool:
    """Whether tables have it in percent."""
    known = _more_is_better(task, metric) and not RAW.fullmatch(metric)
    return known and "perplexity" not in metric


def _plain(value: Any) -> Any:
    """A value as a log holds it, so that a log that is graded again gives the same."""
    return json.loads(json.dumps(value, default=_unpacked))


def _unpacked(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TaskError(f"a metric gives a {type(value).__name__}, which no log can hold")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)[:60]
