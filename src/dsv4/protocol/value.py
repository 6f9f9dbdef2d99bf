"""A parameter's value, in tolerant reading.

    value = all text up to the parameter's own exact end tag, as long as one follows

Any other tag that might end it is held, with all that comes after, until that end tag or the end of
the completion. Only there is a lost end tag guessed: the value ends at the first tag from which on
nothing but calls follows. A tag that opens a call ends no value, so no quoted one becomes a call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dsv4.protocol.constants import DSML, EOS
from dsv4.protocol.marks import marked, unmarked
from dsv4.protocol.scan import Mode, Scanner, end_tags, without_line_ends
from dsv4.protocol.state import State
from dsv4.protocol.tags import Item, Step, Tag, closes, loose_tag, opens, raw

if TYPE_CHECKING:
    from dsv4.protocol.invocation import Arguments


class Value(State):
    """`key` None: the parameter came before, so its text is none of the call's."""

    def __init__(self, arguments: Arguments, key: str | None, tag: Tag, step: Step, untyped: bool):
        self.arguments, self.reading = arguments, arguments.reading
        self.key, self.untyped = key, untyped
        self.begin = step.at + len(tag.raw)
        self.line = False  # what comes next begins a line
        self.quotes = False  # it holds the tag of a call
        self.held: list[str] | None = None  # from the first tag that may be the end
        self.held_at = 0
        self.spaced = unmarked(tag.raw).startswith(f"<{DSML} parameter")

    @property
    def mode(self) -> Mode:
        """How the text is to be searched."""
        if self.held is None:
            return "value"
        return "spaced" if self.spaced else "held"

    def step(self, step: Step) -> State:
        """More of it, or its end."""
        if self.held is not None:
            return self._hold(step)
        text, item, at = step
        if self._is_end(item):
            assert isinstance(item, Tag)
            self._add(text, at - len(text))
            self.reading.note_tag("", step, item.raw, item.exact, "")
            return self._close(item.raw, at)
        line = text.endswith("\n") if text else self.line
        self.quotes = self.quotes or opens(item, "invoke")
        line = line and not self.quotes  # a parameter in a quoted call is quoted with it
        if isinstance(item, Tag) and item.ends_value is None and may_end(item, line):
            kept = without_line_ends(text, 1)
            self._add(kept, at - len(text))
            self.held, self.held_at = [text[len(kept) :], item.raw], at - len(text) + len(kept)
            return self
        if item == EOS or (isinstance(item, Tag) and item.ends_value):
            return self._end_by(step)
        self._note_look_alikes(raw(item), at)
        self._add(text + raw(item), at - len(text))
        self.line = (text + raw(item)).endswith("\n") if text or item else self.line
        return self

    def _is_end(self, item: Item) -> bool:
        if not isinstance(item, Tag) or not closes(item, "parameter"):
            return False
        return bool(item.ends_value) or unmarked(item.raw) in end_tags(self.spaced, False)

    def _hold(self, step: Step) -> State:
        assert self.held is not None
        self.held.append(step.text)
        if not isinstance(step.item, Tag):
            self.held.append(raw(step.item))
            return self
        text, self.held = "".join(self.held), None
        self._note_look_alikes(text, self.held_at)
        return self.step(Step(text, step.item, step.at))

    def _note_look_alikes(self, text: str, at: int) -> None:
        """Ends that strict reading stumbles over, though the value's own still follows."""
        marks = self.reading.marks
        end = f"/{marked(DSML) if marks else DSML}parameter"
        place = text.find(end)
        while place >= 0:
            begin = place - (text[place - 1 : place] == "<")
            tag = re.compile(loose_tag(marks)).match(text, begin)
            last = tag.end() if tag and tag["tag"] is not None else place + len(end)
            self.reading.note("quoted_end", text[begin:last], at + begin)
            place = text.find(end, place + 1)

    def _end_by(self, step: Step) -> State:
        """Another tag, or the end of the completion, ends it; one line end before it is layout."""
        text, item, at = step
        self.reading.guessed = True
        kept = text if self.key is None else without_line_ends(text, 1)
        self._add(kept, at - len(text))
        self.reading.note("missing_end", raw(item), at)
        return self._close("", at).step(Step("", item, at))

    def _add(self, text: str, at: int) -> None:
        self.arguments.add(self.key, text, at)

    def _close(self, tag: str, at: int) -> State:
        self.arguments.end_value(self.key, self.untyped, self.begin, tag, at)
        return self.arguments.between(closed=bool(tag))

    def release(self, complete: bool) -> list[Step]:
        """At the end of the completion: what was held, with the tags that end values known."""
        if self.held is None:
            return []
        text, self.held = "".join(self.held), None
        scanner = Scanner(self.reading.marks, self.held_at)
        steps = list(scanner.push(text, last=True))
        return planned(_without_early_ends(steps), complete)

    def cut(self, half: str, at: int) -> None:
        """The completion broke off here."""
        self.arguments.cut_value(self.key)
        self.reading.truncate(half, at)


def may_end(tag: Tag, line: bool, complete: bool = True) -> bool:
    """Might be where a value ends whose end tag was lost; `line`: it begins one."""
    if opens(tag, "parameter"):
        return line and complete
    return tag.closing and bool(tag.name)


def planned(steps: Sequence[Step], complete: bool) -> list[Step]:
    """Tags learn whether they end a value: if nothing but calls follows them.

    Read from the end: `good[i]`: step i stands between values, and so all that follows is calls.
    """
    good = [False] * (len(steps) + 1)
    ends = [False] * len(steps)
    later = False  # some tag further on ends a value
    for i in reversed(range(len(steps))):
        text, item, _ = steps[i]
        if not isinstance(item, Tag):
            good[i] = i + 1 == len(steps)  # the end of the completion
            continue
        blank = i + 1 < len(steps) and not steps[i + 1].text.strip()
        follows = i + 1 == len(steps) or (blank and good[i + 1])
        if closes(item, "invoke"):
            good[i] = follows or (blank and closes(steps[i + 1].item, "tool_calls"))
        elif opens(item, "parameter"):
            good[i] = later
        else:
            good[i] = follows and bool(item.name) and (item.closing or i + 1 < len(steps))
        ends[i] = good[i] and may_end(item, text.endswith("\n"), complete)
        later = later or ends[i]
    return [
        step._replace(item=step.item._replace(ends_value=end))
        if isinstance(step.item, Tag)
        else step
        for step, end in zip(steps, ends, strict=True)
    ]


def _without_early_ends(steps: Sequence[Step]) -> list[Step]:
    """An end of the completion that has more after it was text."""
    out: list[Step] = []
    before = ""
    for number, step in enumerate(steps):
        text = before + step.text
        if step.item == EOS and number + 1 < len(steps):
            before = text + EOS
        else:
            out.append(step._replace(text=text))
            before = ""
    return out
