"""A judge: a model that marks replies against reference answers, by a rubric.

    verdict = the word of {"reason": …, "verdict": …}, if that is all the judge says
            | unjudged: anything else, which counts neither as right nor as wrong

What is marked may hold any text, also orders to the judge and verdicts of its own. So it reaches
the judge as a string of one JSON object, with the letters escaped that control tokens begin with,
and no word is looked for in what the judge says: the whole of it must be of the rubric's schema.
How far a judge is to be trusted is measured: it also marks replies whose verdict is known.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dsv4.eval.grade.answer import Answer
from dsv4.eval.grade.judged import Rubric, judged, rubrics
from dsv4.eval.subject import Ask, Reply, Subject, SubjectError, TooLongError
from dsv4.eval.task import hash_of

TOKENS = 2048  # of the judge's reply, which may reason first whatever it is told
OPTIONAL: dict[str, dict[str, Any]] = {  # what a server may not know, and how it is left out
    "response_format": {"schema": None},
    "reasoning_effort": {"effort": ""},
}


class Judge:
    """Marks with a subject, at temperature 0. Usable from many threads at once."""

    def __init__(self, subject: Subject, tokens: int = TOKENS):
        self._subject, self._tokens = subject, tokens
        self._left_out: frozenset[str] = frozenset()  # what its server does not know
        self._agrees: dict[str, float] = {}
        self._asking = threading.Lock()

    @property
    def name(self) -> str:
        """The model's."""
        return self._subject.name

    def mark(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A sample's row with what the judge says of it; where it cannot be reached, why."""
        if not wanted(row):
            return dict(row)
        rubric = rubrics()[row["rubric"]]
        found = self._said(rubric, question_of(row["prompt"]), row["target"], row["text"])
        try:
            found |= {} if "error" in found else {"agrees": self.agreement(rubric)}
        except SubjectError as error:
            found |= {"error": str(error)}
        return dict(row) | {"judged": found}

    def agreement(self, rubric: Rubric) -> float:
        """The share of the rubric's controls that it marks as it should. Raises SubjectError."""
        with self._asking:
            if rubric.name not in self._agrees:
                right = 0
                for one in rubric.controls:
                    found = self._said(rubric, one["question"], one["reference"], one["reply"])
                    if "error" in found:
                        raise SubjectError(found["error"])
                    answer = Answer(one["reply"], rubric=rubric.name, judged=found)
                    verdict = judged(one["reference"], answer)
                    right += verdict.grade == rubric.verdicts[one["verdict"]]
                self._agrees[rubric.name] = right / len(rubric.controls)
            return self._agrees[rubric.name]

    def _said(self, rubric: Rubric, question: str, reference: Any, reply: str) -> dict[str, Any]:
        """What the judge says of a reply: a text, or the error of not reaching it."""
        messages = rubric.messages(question, reference, reply)
        found: dict[str, Any] = {"model": self.name, "rubric": rubric.hash}
        found["hash"] = hash_of(messages)
        ask = Ask(messages, max_tokens=self._tokens, temperature=0.0, schema=rubric.schema)
        try:
            said = self._generate(ask)
        except TooLongError as error:
            return found | {"text": "", "finish_reason": f"what it cannot read: {error}"}
        except SubjectError as error:
            return found | {"error": str(error)}
        found |= {"text": said.text, "finish_reason": said.finish_reason}
        found |= {"constrained": "response_format" not in self._left_out}
        found |= {"prompt_tokens": said.prompt_tokens}
        return found | {"completion_tokens": said.completion_tokens}

    def close(self) -> None:
        """Nothing more is marked."""
        self._subject.close()

    def _generate(self, ask: Ask) -> Reply:
        """The reply, asked for without what the server refuses by its name."""
        while True:
            told, without = ask, self._left_out
            for word in without:
                told = replace(told, **OPTIONAL[word])
            try:
                return self._subject.generate(told)
            except SubjectError as error:
                new = {word for word in OPTIONAL if word in str(error)} - without
                if not new:
                    raise
                self._left_out |= new


def wanted(row: Mapping[str, Any]) -> bool:
    """Whether a sample has an answer that a judge must mark."""
    whole = row.get("finish_reason") not in ("length", "content_filter")
    return "rubric" in row and "failed" not in row and whole and bool(row.get("text", "").strip())


def unreached(row: Mapping[str, Any]) -> bool:
    """Whether its verdict is still to be asked for."""
    return wanted(row) and ("judged" not in row or "error" in row["judged"])


def question_of(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """What was asked: the last message of the user, or the last paragraph of a text."""
    if isinstance(prompt, str):
        return prompt.rstrip().rpartition("\n\n")[2]
    asked = [m["content"] for m in prompt if m["role"] == "user"]
    return str(asked[-1]) if asked else ""
