"""A completion as it arrives, read by the protocol's layout and nothing else.

    [reasoning </think>] content [\\n\\n <DSML tool_calls> invoke… </DSML tool_calls>] EOS

One marker is awaited at a time. Text is passed on as soon as no marker can begin in it, so every
way of cutting a completion gives the same message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from dsv4.protocol.call import Call
from dsv4.protocol.constants import BOS, CONTROL, DSML, END_THINK, EOS, THINK
from dsv4.protocol.deltas import Content, Delta, End, ErrorRecord, Reasoning
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.marks import marked, unmarked
from dsv4.protocol.markup import Markers, json_value

LONGEST_HEAD = 1 << 12

_NAME = re.compile(r'\s*name="(.*?)">\n\n?', re.DOTALL)
_KEY = re.compile(r' name="(.*?)" string="(true|false)">', re.DOTALL)


class Layout:
    """The layout's words and where each may come; `marks`: its tokens are marked (see marks.py)."""

    def __init__(self, marks: bool):
        name = marked if marks else str
        dsml = name(DSML)
        self.block, self.end_block = f"\n\n<{dsml}tool_calls", f"</{dsml}tool_calls>"
        self.invoke, self.end_invoke = f"<{dsml}invoke", f"</{dsml}invoke"
        self.parameter, self.end_parameter = f"<{dsml}parameter", f"/{dsml}parameter"
        self.eos, self.end_think = name(EOS), name(END_THINK)
        # the block stands first: while its beginning is all there is, its token is not one in text
        refused = map(name, (BOS, EOS, THINK, END_THINK, DSML))  # by the release's parser
        self.release_text = Markers(self.block, *refused)
        self.text = Markers(self.block, *map(name, CONTROL))
        self.calls = Markers(self.invoke, self.end_block)
        self.inside = Markers(self.parameter, self.end_invoke)
        self.value = Markers("<" + self.end_parameter, self.end_parameter)


_layout = cache(Layout)


class StrictReader:
    """Raises ProtocolError at the first departure from the layout, and from then on.

    `kind`: what the completion begins with; `calls`: it begins inside a block.
    `as_release`: as the release's own parser, which does not look at values and refuses fewer
    tokens in text.
    """

    def __init__(
        self,
        kind: type[Reasoning] | type[Content],
        *,
        calls: bool = False,
        marks: bool = False,
        as_release: bool = False,
    ):
        self.errors: list[ErrorRecord] = []
        self.truncated = False
        self._layout = _layout(marks)
        self._markers = self._layout.release_text if as_release else self._layout.text
        self._as_release = as_release
        self._failed: ProtocolError | None = None
        self._new: list[Delta] = []
        self._held = ""
        self._read: Callable[[], bool] = self._read_text
        self._kind = kind
        self._calls = 0
        self._call: Call | None = None
        if calls:  # the prompt ended with the block's tag and a line end
            self._held, self._read = ">\n", self._read_calls

    def feed(self, text: str) -> list[Delta]:
        """The deltas that are certain after one more piece."""
        if self._failed:
            raise self._failed
        self._held += text
        self._new = []
        try:
            while self._held and self._read():
                pass
        except ProtocolError as error:
            self._failed = error
            raise
        return self._new

    def finish(self, stopped: bool) -> list[Delta]:
        """The last deltas. `stopped` stands for an EOS that was not passed on."""
        eos = self._layout.eos if stopped and self._read != self._read_end else ""
        new = self.feed(eos)
        if self._held or self._read not in (self._read_end, self._read_after_block):
            self._failed = ProtocolError(f"the completion ends too early: {self._missing()}")
            raise self._failed
        return new

    def _missing(self) -> str:
        if self._read != self._read_text:
            return "inside the block of tool calls"
        return f"no {END_THINK if self._kind is Reasoning else EOS} came"

    def _emit(self, delta: Delta) -> None:
        self._new.append(delta)

    # ---- one reader a state; True: go on with what is held ------------------------------------

    def _read_text(self) -> bool:
        held = self._held
        found = self._markers.pattern.search(held)
        cut = found.start() if found else len(held)
        if cut:
            self._new.append(self._kind(held[:cut]))
        marker = found and found.group(1)
        if found is None or marker is None:
            self._held = held[cut:]
            return False
        self._held = held[found.end() :]
        if self._kind is Reasoning and marker == self._layout.end_think:
            self._kind = Content
        elif self._kind is Content and marker == self._layout.eos:
            self._new.append(End())
            self._read = self._read_end
        elif self._kind is Content and marker == self._layout.block:
            self._read = self._read_calls
        else:
            raise ProtocolError(
                f"{unmarked(marker)!r} may not stand in {self._kind.__name__.lower()}"
            )
        return True

    def _read_end(self) -> bool:
        raise ProtocolError(f"text after the end of the completion: {unmarked(self._held[:60])!r}")

    def _read_after_block(self) -> bool:
        eos = self._layout.eos
        if not eos.startswith(self._held[: len(eos)]):
            raise ProtocolError(f"text after the tool calls: {unmarked(self._held[:60])!r}")
        if len(self._held) < len(eos):
            return False
        self._held = self._held[len(eos) :]
        self._new.append(End())
        self._read = self._read_end
        return True

    def _read_calls(self) -> bool:
        found = self._after_gap(self._layout.calls)
        if found == self._layout.invoke:
            self._read = self._read_name
        elif found:
            self._read = self._read_after_block
        return bool(found)

    def _read_name(self) -> bool:
        found = self._layout.inside.pattern.search(self._held)
        if found is None or found.group(1) is None:
            self._bound_head()
            return False
        name = _NAME.fullmatch(self._held, 0, found.start())
        if name is None:
            raise ProtocolError(
                f"not the head of a call: {unmarked(self._held[: found.start()])!r}"
            )
        self._call = Call(self._emit, self._calls, name.group(1))
        self._calls += 1
        self._held = self._held[found.end() :]
        self._enter(found.group())
        return True

    def _read_gap(self) -> bool:
        found = self._after_gap(self._layout.inside)
        if found:
            self._enter(found)
        return bool(found)

    def _enter(self, marker: str) -> None:
        assert self._call is not None
        if marker == self._layout.parameter:
            self._read = self._read_key
        else:
            self._call.end()
            self._read = self._read_calls

    def _read_key(self) -> bool:
        assert self._call is not None
        end = self._held.find(self._layout.end_parameter)
        head = _KEY.match(self._held, 0, end if end >= 0 else len(self._held))
        if head is None:
            if end >= 0:
                raise ProtocolError(f"not the head of a parameter: {unmarked(self._held[:end])!r}")
            self._bound_head()
            return False
        key, string = head.groups()
        if key in self._call.keys:
            raise ProtocolError(f"parameter {unmarked(key)!r} is given twice")
        self._call.begin(key, string == "true")
        self._held = self._held[head.end() :]
        self._read = self._read_value
        return True

    def _read_value(self) -> bool:
        assert self._call is not None
        held = self._held
        found = self._layout.value.pattern.search(held)
        cut = found.start() if found else len(held)
        if cut:
            self._call.piece(held[:cut])
        if found is None or found.group(1) is None:
            self._held = held[cut:]
            return False
        self._held = held[found.end() :]
        if found.group() == self._layout.end_parameter:
            raise ProtocolError("the end tag of a parameter lacks its <")
        if not self._as_release and not self._call.string:
            _check_json(self._call.value())
        self._call.end_value()
        self._read = self._read_gap
        return True

    def _bound_head(self) -> None:
        """A head is read again with every piece: without an end to it, time would be squared."""
        if len(self._held) > LONGEST_HEAD and not self._as_release:
            raise ProtocolError(
                f"a tag of over {LONGEST_HEAD} characters: {unmarked(self._held[:60])!r}"
            )

    def _after_gap(self, markers: Markers) -> str:
        """The marker that stands after `>` and a line end, "" if more text is needed."""
        gap, text = ">\n", self._held
        if not text.startswith(gap[: len(text)]):
            raise ProtocolError(f"a tag must end in '>' and a line end: {unmarked(text[:60])!r}")
        if len(text) <= len(gap):
            return ""
        found = markers.pattern.match(text, len(gap))
        if found is None:
            raise ProtocolError(
                f"unexpected text among tool calls: {unmarked(text[len(gap) :][:60])!r}"
            )
        if found.group(1) is None:
            return ""
        self._held = text[found.end() :]
        return found.group(1)


def _check_json(value: str) -> None:
    try:
        json_value(value)
    except ValueError as error:
        raise ProtocolError(f'string="false", but {unmarked(value[:60])!r} is no JSON') from error
