"""A plain dialogue as the model reads it: system, user and assistant turns, no tools.

BOS [effort prefix] system  (<User> text <Assistant> (<think> reasoning)? </think> reply EOS)…
Reasoning before the last user turn is dropped, and its reply opens with </think> at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, NamedTuple

STRINGS: dict[str, str] = json.loads(
    resources.files("dsv4.protocol").joinpath("constants.json").read_text(encoding="utf-8")
)
EFFORTS = ("none", "high", "max")

Effort = Literal["none", "high", "max"]


@dataclass(frozen=True)
class Turn:
    """One message. `reasoning` belongs to an assistant's turn only."""

    role: Literal["system", "user", "assistant"]
    content: str
    reasoning: str = ""


class Segment(NamedTuple):
    """A stretch of the prompt: one control token, or text in which nothing is a control token."""

    text: str
    control: bool


def dialogue_segments(turns: Sequence[Turn], effort: Effort = "none") -> list[Segment]:
    """The prompt of a dialogue, up to where the assistant's next reply begins.

    Source: the release's encoding; report, section 5.1 (non-think, high and max). Raises
    ValueError for an unknown effort.
    """
    if effort not in EFFORTS:
        raise ValueError(f"unknown effort {effort!r}: choose one of {', '.join(EFFORTS)}")
    thinking = effort != "none"
    out = [_control("bos")]
    if effort == "max":
        out.append(Segment(STRINGS["max_effort"], False))
    last_user = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    for number, turn in enumerate(turns):
        if turn.role == "user":
            opens = "think" if thinking and number == last_user else "end_think"
            out += [_control("user"), Segment(turn.content, False)]
            out += [_control("assistant"), _control(opens)]
        elif turn.role == "assistant":
            if thinking and number > last_user:
                out += [Segment(turn.reasoning, False), _control("end_think")]
            out += [Segment(turn.content, False), _control("eos")]
        else:
            out.append(Segment(turn.content, False))
    return [segment for segment in out if segment.text]


def _control(name: str) -> Segment:
    return Segment(STRINGS[name], True)
