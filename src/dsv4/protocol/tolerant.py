"""A completion as models really write it: never an exception, never a lost character.

What departs from the layout but can be understood is read, with a record of the departure; what
cannot comes back as text where it stood, with a record too. No record means that the strict reader
gives the same message. The readings are tabled in docs/protocol.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsv4.protocol.call import Call
from dsv4.protocol.constants import END_THINK, EOS, THINK
from dsv4.protocol.deltas import CallCancel, Content, Delta, End, ErrorRecord, Reasoning
from dsv4.protocol.markup import (
    Item,
    Tag,
    ends_call,
    is_json,
    is_object,
    is_of_block,
    is_text,
    opens,
    opens_block,
    raw,
)
from dsv4.protocol.messages import check_tools, properties_of
from dsv4.protocol.records import Records
from dsv4.protocol.scan import BEGINS, Scanner, without_line_ends

WRAPPERS = ("arguments", "input")


class TolerantReader:
    """Never raises. `tools` are those offered, in OpenAI's form; None: not known.

    A state is a method that takes a step of the scanner: text, and the tag or token after it.
    """

    def __init__(self, thinking: bool, tools: Sequence[Mapping[str, Any]] | None, calls: bool):
        self.truncated = False
        self._records = Records()
        self._may_call = calls
        self._properties: dict[str, Mapping[str, Any]] | None = None
        if tools is not None:
            self._properties = {f["name"]: properties_of(f) for f in check_tools(tools)}
        self._new: list[Delta] = []
        self._scanner = Scanner()
        self._at = 0  # where the step's text ends in the completion
        self._step: Callable[[str, Item], None] = self._text
        self._kind: type[Reasoning] | type[Content] = Reasoning if thinking else Content
        self._thinking = thinking
        self._fresh = True  # nothing but space has been read
        self._blocks = self._calls = 0
        self._gap: str | None = None  # space that is layout if a tag follows; None: space is text
        self._opener = ""  # of a block that has no call yet
        self._raw: list[str] = []  # the text of the call so far
        self._body: list[str] = []  # the text between its head and what follows, or a wrapped value
        self._aside: list[str] = []  # text inside the call that is no part of it, for after it
        self._name = ""
        self._call: Call | None = None
        self._skipped = self._untyped = False  # the parameter is text; has no `string` attribute
        self._value_at = 0  # where its value begins
        self._wrapped: tuple[str, bool] | None = None  # a first parameter that may hold all others

    @property
    def errors(self) -> list[ErrorRecord]:
        """The departures so far, in order."""
        return self._records.all()

    def feed(self, text: str) -> list[Delta]:
        """The deltas that are certain after one more piece."""
        scanner = self._scanner
        plain = self._step == self._text and not (scanner.held or self._fresh or self._blocks)
        if plain and text and not BEGINS.search(text):
            scanner.offset += len(text)
            return [self._kind(text)]
        self._new = []
        self._take(text, last=False)
        return self._new

    def finish(self, stopped: bool) -> list[Delta]:
        """The last deltas. `stopped` stands for an EOS that was not passed on."""
        self._new = []
        self._take("", last=True)
        self._at = self._scanner.offset
        if self._step == self._after_end:
            return self._new
        if stopped:
            self._step("", EOS)
        elif self._step == self._text and self._gap is not None:  # after a block EOS may be missing
            self._note("layout", self._gap)
        else:
            self._truncate()
        return self._new

    def _take(self, text: str, last: bool) -> None:
        for before, item in self._scanner.push(text, last):
            self._at = self._scanner.offset + len(before)
            self._step(before, item)

    # ---- what comes out ------------------------------------------------------------------------

    def _emit(self, delta: Delta) -> None:
        self._new.append(delta)

    def _note(self, kind: str, text: str, at: int | None = None) -> None:
        """A record of text that begins at `at`, or ends with the step's."""
        self._records.add(kind, text, self._at - len(text) if at is None else at)

    def _refuse(self, kind: str, text: str, at: int | None = None) -> None:
        """Text that was not understood: it stays where it stood."""
        self._note(kind, text, at)
        if text:
            self._emit(self._kind(text))

    def _truncate(self) -> None:
        self.truncated = True
        if self._call:
            self._emit(CallCancel(self._call.number))
        void = self._opener + "".join(self._raw)
        if self._opener and self._step == self._between:
            void += self._gap or ""
        self._refuse("truncated", void)
        if not void:
            self._records.add_place("truncated", self._at)

    # ---- text ----------------------------------------------------------------------------------

    def _text(self, text: str, item: Item) -> None:
        block = self._may_call and opens_block(item)
        space = ""  # layout between the text, or a block, and the item
        if self._gap is not None:
            text = self._gap + text
            leaves = block or item == EOS or (item == END_THINK and self._kind is Reasoning)
            if is_text(text) or (item is not None and not leaves):
                self._gap = None
            elif item is None:
                self._gap = text
                return
            else:
                space, text = text, ""
        if block and self._gap is None:
            lead = without_line_ends(text, 2)
            text, space = lead, text[len(lead) :]
        self._say(text, self._at - len(space) - len(text))
        if isinstance(item, Tag) and block:
            self._open_block(space, item)
        elif item is not None:
            self._note("layout", space)
            self._token(item)

    def _say(self, text: str, at: int) -> None:
        if text:
            self._fresh = self._fresh and text.isspace()
            if self._blocks and self._kind is Content:
                self._note("text_after_calls", text, at)
            self._emit(self._kind(text))

    def _token(self, item: Tag | str) -> None:
        fresh, self._fresh = self._fresh, False
        if item == EOS:
            if self._kind is Reasoning:
                self._note("open_reasoning", EOS, self._at)
            self._end()
        elif item == END_THINK and self._kind is Reasoning:
            self._kind, self._gap = Content, None
        elif fresh and (item == THINK or (item == END_THINK and not self._thinking)):
            self._note("redundant_think", raw(item), self._at)
            self._kind = Reasoning if item == THINK else Content
        elif isinstance(item, Tag) and not self._may_call:
            self._refuse("not_offered", item.raw, self._at)
        else:
            self._refuse("unexpected_markup", raw(item), self._at)

    def _end(self) -> None:
        self._emit(End())
        self._step = self._after_end

    def _after_end(self, text: str, item: Item) -> None:
        text += raw(item)
        self._refuse("text_after_end", text, self._scanner.offset)

    # ---- a block, between its calls --------------------------------------------------------------

    def _open_block(self, space: str, tag: Tag) -> None:
        text, at = space + tag.raw, self._at - len(space)
        if self._kind is Reasoning:
            self._note("block_in_reasoning", text, at)
        elif self._blocks:
            self._note("second_block", text, at)
        elif tag.name == "invoke":
            self._note("missing_start", text, at)
        elif space != "\n\n" or not tag.exact:
            self._note("layout", text, at)
        self._blocks += 1
        self._fresh = False
        self._step, self._gap = self._between, ""
        if tag.name == "invoke":
            self._opener = space
            self._open_call(tag)
        else:
            self._opener = text

    def _between(self, text: str, item: Item) -> None:
        junk = self._junk(text, item)
        if self._opener and (junk or (item is not None and not is_of_block(item))):
            self._close_empty_block(junk or self._gap or "", item)
            return
        self._refuse("text_among_calls", junk)
        if item is None:
            return
        if isinstance(item, Tag) and is_of_block(item):
            if item.name == "invoke":
                self._open_call(item)
                return
            if not item.closing:  # its predecessor was never closed
                self._note("second_block", item.raw, self._at)
            else:
                self._note_spelling(item)
                self._step = self._text
            self._opener, self._gap = "", ""
        elif item == EOS or (item == END_THINK and self._kind is Reasoning):
            self._note("missing_end", raw(item), self._at)
            self._gap = None
            self._step = self._text
            self._step("", item)
        else:
            self._gap = None
            self._refuse("unexpected_markup", raw(item), self._at)

    def _close_empty_block(self, after: str, item: Item) -> None:
        """A block's tag without a call, as when prose speaks of it, is text."""
        opener, self._opener, self._gap = self._opener, "", None
        self._blocks -= 1
        self._refuse("unexpected_markup", opener, self._at - len(after) - len(opener))
        self._step = self._text
        self._step(after, item)

    def _junk(self, text: str, item: Item) -> str:
        """What stands between two tags, unless it is space, which is layout."""
        if self._gap is None:
            return text
        self._gap += text
        if is_text(self._gap):
            text, self._gap = self._gap, None
            return text
        if item is not None:
            self._note_space(self._gap, item, "\n")
        return ""

    def _note_space(self, space: str, item: Tag | str, *exact: str) -> None:
        if space not in exact:
            self._note("layout", space + raw(item), self._at - len(space))

    def _as_text(self, text: str, item: Item) -> str:
        self._at += len(raw(item))
        return text + raw(item)

    def _note_spelling(self, tag: Tag) -> None:
        if not tag.exact:
            self._note("layout", tag.raw, self._at)

    # ---- a call ----------------------------------------------------------------------------------

    def _open_call(self, tag: Tag) -> None:
        self._note_spelling(tag)
        self._name = tag.attributes["name"]
        if self._properties is not None and self._name not in self._properties:
            self._note("unknown_tool", tag.raw, self._at)
        self._raw, self._body, self._aside = [self._gap or "", tag.raw], [], []
        self._step = self._head

    def _head(self, text: str, item: Item) -> None:
        """Between a call's tag and its first parameter or its end."""
        follows = isinstance(item, Tag) and (opens(item) or ends_call(item))
        if item != EOS and not follows:
            text, item = self._as_text(text, item), None
        self._raw.append(text)
        self._body.append(text)
        if item is None:
            return
        body, self._body = "".join(self._body), []
        if isinstance(item, Tag) and item.name == "parameter":
            self._start()
            if body.strip():
                self._set_aside("text_in_call", body, self._at - len(body))
            else:
                self._note_space(body, item, "\n", "\n\n")
            self._open_parameter(item)
        else:
            self._end_without_parameters(body, item)

    def _end_without_parameters(self, body: str, item: Tag | str) -> None:
        closed = isinstance(item, Tag) and item.name == "invoke" and item.closing
        if closed:
            self._raw.append(raw(item))
        else:
            self._note("missing_end", raw(item), self._at)
        if is_object(body) or (not body.strip() and item != EOS):
            if body.strip():
                self._note("json_body", body)
            else:
                self._note_space(body, item, "\n", "\n\n")
            self._start().end_with(body.strip() or "{}")
            self._gap = ""
        else:
            void = self._opener + "".join(self._raw)
            self._refuse("void_call", void, self._at + closed * len(raw(item)) - len(void))
            self._gap = None
            self._blocks -= bool(self._opener)
        in_block = self._call is not None or not self._opener
        self._leave_call(self._between if in_block else self._text, None if closed else item)

    def _start(self) -> Call:
        self._call = Call(self._emit, self._calls, self._name)
        self._calls += 1
        return self._call

    def _between_parameters(self, text: str, item: Item) -> None:
        junk = self._junk(text, item)
        self._raw.append(text)
        self._set_aside("text_in_call", junk, self._at - len(junk))
        if item is None:
            return
        self._gap = ""
        if isinstance(item, Tag) and item.name == "parameter" and opens(item):
            self._open_parameter(item)
        elif isinstance(item, Tag) and item.name == "invoke" and item.closing:
            self._note_spelling(item)
            self._end_call()
            self._leave_call(self._between, None)
        elif ends_call(item) or (item == END_THINK and self._kind is Reasoning):
            self._note("missing_end", raw(item), self._at)
            self._end_call()
            self._leave_call(self._between, item)
        else:
            self._gap = None
            self._raw.append(raw(item))
            self._set_aside("unexpected_markup", raw(item), self._at)

    def _set_aside(self, kind: str, text: str, at: int) -> None:
        if text:
            self._note(kind, text, at)
            self._aside.append(text)

    def _end_call(self) -> None:
        call = self._call
        assert call is not None
        value = "".join(self._body)
        if self._wrapped and is_object(value):
            self._note("wrapped_arguments", value, self._value_at)
            call.end_with(value.strip())
        else:
            self._unfold()
            call.end()

    def _leave_call(self, step: Callable[[str, Item], None], item: Item) -> None:
        """To another state, where `item`, if it did not end the call, is read anew."""
        self._call = self._wrapped = None
        self._opener, self._raw, self._body = "", [], []
        if self._aside:
            self._emit(self._kind("".join(self._aside)))
            self._aside = []
        self._step = step
        if item is not None:
            self._gap = None
            self._step("", item)

    # ---- a parameter -----------------------------------------------------------------------------

    def _open_parameter(self, tag: Tag) -> None:
        call = self._call
        assert call is not None
        self._raw.append(tag.raw)
        self._unfold()
        self._value_at = self._at + len(tag.raw)
        key, given = tag.attributes["name"], tag.attributes.get("string", "").lower()
        known = (self._properties or {}).get(self._name, {})
        self._untyped = not given
        string = _is_string(known.get(key)) if self._untyped else given == "true"
        if key in call.keys:
            self._skipped = True
            self._set_aside("duplicate_parameter", tag.raw, self._at)
        else:
            kind = "missing_string" if self._untyped else "layout"
            self._note("" if tag.exact else kind, tag.raw, self._at)
            if not call.keys and known and key in WRAPPERS and key not in known:
                self._wrapped = (key, string)
            else:
                call.begin(key, string)
        self._scanner.in_value = True
        self._step = self._value

    def _value(self, text: str, item: Item) -> None:
        closed = isinstance(item, Tag) and item.name == "parameter" and item.closing
        follows = closed or ends_call(item) or (isinstance(item, Tag) and opens(item))
        if not follows:
            text, item = self._as_text(text, item), None
        self._raw.append(text)
        implied = item is not None and not closed
        layout = 1 if implied and not self._skipped else 0
        self._add(without_line_ends(text, layout), self._at - len(text))
        if item is None:
            return
        if implied:
            self._note("missing_end", raw(item), self._at)
        if isinstance(item, Tag) and closed:
            self._raw.append(item.raw)
            self._note_spelling(item)
        self._scanner.in_value = False
        self._end_parameter(raw(item) if closed else "")
        self._step, self._gap = self._between_parameters, "" if closed else None
        if not closed:
            self._step("", item)

    def _add(self, text: str, at: int) -> None:
        if self._skipped:
            self._set_aside("duplicate_parameter", text, at)
        elif self._wrapped:
            self._body.append(text)
        elif self._call and text:
            self._call.piece(text)

    def _end_parameter(self, tag: str) -> None:
        if self._skipped:
            self._skipped = False
            self._set_aside("duplicate_parameter", tag, self._at)
        elif self._call and not self._wrapped:
            self._end_value(self._call)

    def _end_value(self, call: Call) -> None:
        """A value that should be JSON and is not is a string."""
        value, text = call.value(), ""
        if not call.string and not is_json(value):
            text = json.dumps(value, ensure_ascii=False)
            self._note("" if self._untyped else "no_json", value or '""', self._value_at)
        call.end_value(text)

    def _unfold(self) -> None:
        """What looked like a wrapper is a parameter like any other."""
        if self._call and self._wrapped:
            self._call.begin(*self._wrapped)
            self._call.piece("".join(self._body))
            self._wrapped, self._body = None, []
            self._end_value(self._call)


def _is_string(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "string"
