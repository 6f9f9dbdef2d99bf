"""What a judge says: the whole of it is one object of the rubric's schema, or it is no verdict.

{"reason": …, "verdict": a word of the rubric}  →  its grade;  anything else  →  unjudged
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from dsv4.eval.grade.answer import Answer, Grade, Verdict, once, unparsed
from dsv4.eval.task import hash_of

REASON = 600  # characters
QUESTION = 8_000  # characters of a question, whose end asks; a corpus may stand before it
FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


@dataclass(frozen=True)
class Rubric:
    """What a judge is told; `verdicts`: its words, and the grade of each. `controls`: replies whose
    verdict is known, hostile ones among them."""

    name: str
    instructions: str
    verdicts: Mapping[str, Grade]
    controls: Sequence[Mapping[str, str]]

    @property
    def schema(self) -> dict[str, Any]:
        """Of the judge's reply: the reason first, so that the verdict can follow from it."""
        properties = {
            "reason": {"type": "string", "maxLength": REASON},
            "verdict": {"type": "string", "enum": list(self.verdicts)},
        }
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def messages(self, question: str, reference: Any, reply: str) -> list[dict[str, str]]:
        """What the judge is asked."""
        if len(question) > QUESTION:
            question = "…" + question[-QUESTION:]
        given = {"question": question, "reference": reference, "reply": reply}
        text = json.dumps(given, ensure_ascii=False, indent=1)
        text = text.replace("<", "\\u003c").replace("｜", "\\uff5c")
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        return [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": text},
        ]

    @property
    def hash(self) -> str:
        """Of what every judge is told."""
        return hash_of([self.instructions, self.schema])


def judged(target: Any, answer: Answer) -> Verdict:
    """The verdict of what the judge said of an answer; `target` is what it was given to compare."""
    if not answer.text.strip():
        return unparsed("the answer is empty")
    found = answer.judged
    if "error" in found or "text" not in found:
        return _unjudged(found.get("error") or "no judge was asked (--judge)")
    text, words = found["text"], rubrics()[answer.rubric].verdicts
    if found["finish_reason"] != "stop":
        return _unjudged(f"the judge's reply ended by {found['finish_reason']}: {text[:80]!r}")
    if match := FENCE.fullmatch(text.strip()):
        text = match[1]
    try:
        said = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        said = None
    if (
        not isinstance(said, dict)
        or set(said) != {"reason", "verdict"}
        or not all(isinstance(value, str) for value in said.values())
        or said["verdict"] not in words
    ):
        return _unjudged(f"the judge's reply is no verdict: {text[:80]!r}")
    grade = words[said["verdict"]]
    return Verdict(grade, float(grade == "right"), f"{said['verdict']}: {said['reason'][:200]}")


@cache
def rubrics() -> dict[str, Rubric]:
    """By name."""
    text = resources.files("dsv4.eval").joinpath("rubrics.json").read_text(encoding="utf-8")
    return {name: Rubric(name, **data) for name, data in json.loads(text).items()}


def _unjudged(reason: str) -> Verdict:
    return Verdict("unjudged", None, reason)
