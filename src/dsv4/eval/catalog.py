"""Every row of the release's tables by name: what it measures, what was published, how it runs.

`runs`: "here" (data of a package), "data" (a dataset id of the hub, or a file), "judge" (the same,
marked by a model), "environment" (containers or services, by a harness of its own). None is left
out of a table because it cannot be run: its row says what it needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

MODES = {"none": "NT", "high": "High", "max": "Max"}
MATHEMATICS = ("hmmt_2026_feb", "imoanswerbench", "apex", "apex_shortlist", "hle")


@dataclass(frozen=True)
class Entry:
    """One row. `lm_eval` names lm-eval's tasks, `inspect` that of inspect-evals where lm-eval has
    none; `grader` that of a file given for it, and `rubric` that of the judge, who takes its place
    if there is one. `tools`: an agent's, to be given."""

    name: str
    title: str
    metric: str
    shots: int
    suite: Literal["base", "instruct"]
    runs: Literal["here", "data", "judge", "environment"]
    how: str
    lm_eval: Sequence[str]
    grader: str
    published: Mapping[str, float | None]
    rubric: str = ""
    tools: bool = False
    inspect: str = ""

    @property
    def short(self) -> str:
        """The name without its suite."""
        return self.name.partition("/")[2]

    def columns(self, effort: str | None) -> dict[str, float | None]:
        """What was published, of one mode if it is named: other models beside Max."""
        if self.suite == "base" or effort is None:
            return dict(self.published)
        word = MODES[
            "max" if effort in ("max", "ultra") else "none" if effort == "none" else "high"
        ]
        mine = {k: v for k, v in self.published.items() if k.startswith(("Flash", "Pro"))}
        out = {f"V4-{k.split()[0]}": v for k, v in mine.items() if k.split()[1] == word}
        return out | (
            {k: v for k, v in self.published.items() if k not in mine} if word == "Max" else {}
        )


@cache
def entries() -> dict[str, Entry]:
    """All rows by name, in the tables' order."""
    text = resources.files(__package__).joinpath("catalog.json").read_text(encoding="utf-8")
    return {row["name"]: Entry(**row) for row in json.loads(text)}


@cache
def prompts() -> dict[str, str]:
    """The forms in which questions are asked: wire data."""
    text = resources.files(__package__).joinpath("prompts.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
