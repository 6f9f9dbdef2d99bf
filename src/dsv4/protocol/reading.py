"""What all states of tolerant reading share: what came out, what departed, what was offered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4.protocol.deltas import Content, Delta, Reasoning
from dsv4.protocol.messages import check_tools, properties_of
from dsv4.protocol.records import Records
from dsv4.protocol.schema import is_string
from dsv4.protocol.tags import Step


class Offer:
    """The tools of a request, in OpenAI's form; `tools` None: not known."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any]):
        self.may_call = choice != "none" and (tools is None or bool(tools))
        functions = [] if tools is None else check_tools(tools)
        self._functions = {function["name"]: function for function in functions}
        named = choice.get("function") if isinstance(choice, Mapping) else None
        only = named.get("name") if isinstance(named, Mapping) else None
        only = only if isinstance(only, str) else None
        self._known = (
            None if tools is None else self._functions.keys() & {only or n for n in self._functions}
        )

    def has(self, name: str) -> bool:
        """It may be called."""
        return self._known is None or name in self._known

    def has_no(self, name: str, key: str) -> bool:
        """The function's schema lists parameters, and this is none of them."""
        known = properties_of(self._functions.get(name, {}))
        return bool(known) and key not in known

    def is_string(self, name: str, key: str) -> bool:
        """The schema of a parameter asks for text."""
        function = self._functions.get(name, {})
        return is_string(properties_of(function).get(key), function.get("parameters"))


class Reading:
    """One completion so far."""

    def __init__(self, offer: Offer, kind: type[Reasoning] | type[Content], marks: bool):
        self.offer, self.marks = offer, marks
        self.kind = kind  # of the text that is being read
        self.new: list[Delta] = []
        self.records = Records()
        self.calls = self.blocks = 0
        self.truncated = False
        self.said = False  # some text came out
        self.guessed = False  # the end of a value was

    def fork(self) -> Reading:
        """A reading on trial, of what comes next."""
        trial = Reading(self.offer, self.kind, self.marks)
        trial.calls, trial.blocks = self.calls, self.blocks
        return trial

    def absorb(self, trial: Reading) -> None:
        """What was on trial counts."""
        self.new += trial.new
        self.records.absorb(trial.records)
        self.calls, self.blocks, self.kind = trial.calls, trial.blocks, trial.kind
        self.truncated |= trial.truncated

    def emit(self, delta: Delta) -> None:
        """One more delta."""
        self.new.append(delta)

    def say(self, text: str) -> None:
        """Text of the kind that is being read."""
        if text:
            self.said = True
            self.new.append(self.kind(text))

    def note(self, kind: str, text: str, at: int) -> None:
        """A record of text that begins at `at`."""
        self.records.add(kind, text, at)

    def refuse(self, kind: str, text: str, at: int) -> None:
        """Text that was not understood: it stays where it stood, and has no other departures."""
        if kind not in ("text_among_calls", "text_after_end"):
            self.records.drop(at, at + len(text))
        self.note(kind, text, at)
        self.say(text)

    def truncate(self, text: str, at: int) -> None:
        """The completion broke off at the end of `text`, which is no part of the message."""
        self.truncated = True
        if text:
            self.note("truncated", text, at)
        else:
            self.records.add_place("truncated", at)

    def note_tag(self, space: str, step: Step, raw: str, exact: bool, *spaces: str) -> None:
        """A record of a tag that is spelt, or spaced, in another way than the layout's."""
        if space not in spaces:
            self.note("layout", space + raw, step.at - len(space))
        elif not exact:
            self.note("layout", raw, step.at)
