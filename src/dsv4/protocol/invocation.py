"""One call, in tolerant reading: its head, then its parameters.

What has begun is never taken back: a call begins when its first parameter or its end is read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dsv4.protocol.call import Call
from dsv4.protocol.constants import END_THINK, EOS
from dsv4.protocol.deltas import Reasoning
from dsv4.protocol.markup import Quotes, is_json, is_object
from dsv4.protocol.state import State
from dsv4.protocol.tags import Item, Step, Tag, closes, ends, ends_call, is_text, opens, raw
from dsv4.protocol.value import Value

if TYPE_CHECKING:
    from dsv4.protocol.block import Block

WRAPPERS = ("arguments", "input", "parameters", "params", "args", "kwargs")


class Head(State):
    """Between a call's tag and its first parameter or its end; JSON may stand there."""

    def __init__(self, block: Block, name: str, gap: str, tag: Tag, at: int):
        self.block, self.reading = block, block.reading
        self.name, self.tag, self.at = name, tag, at
        self.lead = gap  # what stood before the tag
        self.body: list[str] = []
        self.quotes: Quotes | None = None  # of a body that is JSON

    def step(self, step: Step) -> State:
        """Anything but a parameter's tag or what ends the call is its body."""
        text, item, at = step
        self._add(text)
        if self._follows(item):
            assert isinstance(item, Tag | str)
            return self._leave(item, at)
        self._add(raw(item))
        return self

    def _follows(self, item: Item) -> bool:
        if self.quotes and self.quotes.open and item != EOS:
            return False  # it is quoted
        return opens(item, "parameter") or ends_call(item)

    def _add(self, text: str) -> None:
        blank = all(piece.isspace() for piece in self.body[:1])
        if text and blank and self.quotes is None and text.lstrip()[:1] == "{":
            self.quotes = Quotes()
        if self.quotes:
            self.quotes.push(text)
        if blank and self.body and self.quotes is None:
            text = self.body.pop() + text  # one piece until it is more than space
        if text:
            self.body.append(text)

    def _leave(self, item: Tag | str, at: int) -> State:
        body = "".join(self.body)
        step = Step(body, item, at)
        if opens(item, "parameter"):
            arguments = Arguments(self.block, self.name)
            if body.strip():
                arguments.set_aside("text_in_call", body, at - len(body))
            else:
                self._note_space(step)
            return arguments.step(Step("", item, at))
        closed = closes(item, "invoke")
        if is_object(body) or (not body.strip() and item != EOS):
            return self._end(step, closed)
        return self._void(step, closed)

    def _note_space(self, step: Step) -> None:
        if step.text not in ("\n", "\n\n"):
            self.reading.note_tag(step.text, step, raw(step.item), True)

    def _end(self, step: Step, closed: bool) -> State:
        body, item, at = step
        reading = self.reading
        if body.strip():
            reading.note("json_body", body, at - len(body))
        else:
            self._note_space(step)
        if not closed:
            reading.note("missing_end", raw(item), at)
        elif isinstance(item, Tag) and body in ("\n", "\n\n"):
            reading.note_tag("", step, item.raw, item.exact, "")
        Call(reading.emit, reading.calls, self.name).end_with(body.strip() or "{}")
        reading.calls += 1
        return self.block.after_call(None if closed else item, at)

    def _void(self, step: Step, closed: bool) -> State:
        """Neither parameters nor JSON: the call is text."""
        _, item, at = step
        end = raw(item) if closed else ""
        return self.block.refuse_call(
            self._text() + end, self._begin(), None if closed else item, at
        )

    def _text(self) -> str:
        return self.lead + self.tag.raw + "".join(self.body)

    def _begin(self) -> int:
        return self.at - len(self.lead)

    def cut(self, half: str, at: int) -> None:
        """What is there of a body begins the arguments; prose makes the call text."""
        body, reading = "".join(self.body), self.reading
        if body.strip() and self.quotes is None:
            self.block.cut_void(self._text() + half, self._begin())
            return
        call = Call(reading.emit, reading.calls, self.name)
        reading.calls += 1
        if body.strip():
            reading.note("json_body", body, at - len(body))
            call.write(body.lstrip())
        reading.truncate(half, at)


class Arguments(State):
    """From the first parameter on: the call has begun."""

    def __init__(self, block: Block, name: str):
        self.block, self.reading, self.name = block, block.reading, name
        self.call = Call(self.reading.emit, self.reading.calls, name)
        self.reading.calls += 1
        self.gap: str | None = ""  # space that is layout if a tag follows; None: space is text
        self.exact: tuple[str, ...] = ("",)  # the layout's spaces before the next tag
        self.aside: list[str] = []  # text that is no part of the call, for after it
        self.wrapped: tuple[str, bool] | None = None  # a first parameter that may hold all others
        self.body: list[str] = []  # and its value
        self.body_at = 0

    # ---- between parameters --------------------------------------------------------------------

    def step(self, step: Step) -> State:
        """Space, then the next parameter or the end of the call."""
        text, item, at = step
        if self.gap is not None:
            text = self.gap + text
            if item is None and not is_text(text):
                self.gap = text
                return self
        layout = self.gap is not None and not is_text(text)
        self.gap = None
        if not layout:
            self.set_aside("text_in_call", text, at - len(text))
        if item is None:
            return self
        return self._read(Step(text if layout else self.exact[0], item, at))

    def _read(self, step: Step) -> State:
        gap, item, at = step
        reading = self.reading
        if isinstance(item, Tag) and opens(item, "parameter"):
            return self._open(gap, item, at)
        if isinstance(item, Tag) and closes(item, "invoke"):
            if item.attributes.get("name", self.name) == self.name:
                reading.note_tag(gap, step, item.raw, item.exact, *self.exact)
            else:  # what was left of this end and of another call's tag
                self.set_aside("unexpected_markup", item.raw, at)
            return self._end(None, at)
        if ends_call(item) or (item == END_THINK and reading.kind is Reasoning):
            if gap not in self.exact:
                reading.note("layout", gap, at - len(gap))
            reading.note("missing_end", raw(item), at)
            return self._end(item, at)
        if ends(item):
            reading.note("stray_end", raw(item), at)
            self.gap = ""
            return self
        self.set_aside("unexpected_markup", raw(item), at)
        return self

    def set_aside(self, kind: str, text: str, at: int) -> None:
        """Text for after the call."""
        if text:
            self.reading.note(kind, text, at)
            self.aside.append(text)

    def _end(self, item: Item, at: int) -> State:
        value = "".join(self.body)
        if self.wrapped and is_object(value):
            self.reading.note("wrapped_arguments", value, self.body_at)
            self.call.end_with(value.strip())
        else:
            self._unfold()
            self.call.end()
        self._say_aside()
        return self.block.after_call(item, at)

    def _say_aside(self) -> None:
        self.reading.say("".join(self.aside))

    def cut(self, half: str, at: int) -> None:
        """The arguments stay what they are."""
        self.cut_value(None)
        self.reading.truncate(half, at)

    # ---- a parameter ---------------------------------------------------------------------------

    def _open(self, gap: str, tag: Tag, at: int) -> State:
        self._unfold()
        call, offer = self.call, self.reading.offer
        key, given = tag.attributes["name"], tag.attributes.get("string", "").lower()
        untyped = given not in ("true", "false")
        string = offer.is_string(self.name, key) if untyped else given == "true"
        step = Step("", tag, at)
        if key in call.keys:
            self.set_aside("duplicate_parameter", tag.raw, at)
            value = Value(self, None, tag, step, untyped)
        else:
            if untyped:
                self.reading.note("missing_string", tag.raw, at)
            self.reading.note_tag(gap, step, tag.raw, tag.exact or untyped, *self.exact)
            if not call.keys and key.lower() in WRAPPERS and offer.has_no(self.name, key):
                self.wrapped, self.body_at = (key, string), at + len(tag.raw)
            else:
                call.begin(key, string)
            value = Value(self, key, tag, step, untyped)
        return self._end_empty(value, at) if tag.empty else value

    def _end_empty(self, value: Value, at: int) -> State:
        self.end_value(value.key, value.untyped, value.begin, "", at)
        return self.between(closed=True)

    def add(self, key: str | None, text: str, at: int) -> None:
        """More of the value of `key`; None: a value that is not the call's."""
        if key is None:
            self.set_aside("duplicate_parameter", text, at)
        elif self.wrapped:
            self.body.append(text)
        elif text:
            self.call.piece(text)

    def end_value(self, key: str | None, untyped: bool, begin: int, tag: str, at: int) -> None:
        """The value is whole; `tag` ended it."""
        if key is None:
            self.set_aside("duplicate_parameter", tag, at)
        elif not self.wrapped:
            self._check(untyped, begin)

    def between(self, closed: bool) -> Arguments:
        """The state after a value; `closed`: its end tag came."""
        self.gap, self.exact = ("", ("\n",)) if closed else (None, ("",))
        return self

    def cut_value(self, key: str | None) -> None:
        """The completion broke off: what was held of the value of `key` is written."""
        body, call = "".join(self.body), self.call
        if self.wrapped and body.lstrip()[:1] == "{":
            self.reading.note("wrapped_arguments", body, self.body_at)
            call.write(body.strip())
        elif self.wrapped:
            call.begin(*self.wrapped)
            call.piece(body)
        if key is not None and not call.string:
            call.write(call.value())
        self._say_aside()

    def _check(self, untyped: bool, begin: int) -> None:
        """A value that should be JSON and is not is a string."""
        value, text = self.call.value(), ""
        if not self.call.string and not is_json(value):
            text = json.dumps(value, ensure_ascii=False)
            if not untyped:
                self._note_no_json(value, begin)
        self.call.end_value(text)

    def _note_no_json(self, value: str, begin: int) -> None:
        if value:
            self.reading.note("no_json", value, begin)
        else:
            self.reading.records.add_place("no_json", begin)

    def _unfold(self) -> None:
        """What looked like a wrapper is a parameter like any other."""
        if self.wrapped:
            wrapped, self.wrapped = self.wrapped, None
            self.call.begin(*wrapped)
            self.call.piece("".join(self.body))
            self.body = []
            self._check(False, self.body_at)
