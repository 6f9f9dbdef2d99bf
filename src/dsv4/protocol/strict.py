"""A completion as it arrives, read by the protocol's layout and nothing else.

    [reasoning </think>] content [\\n\\n <DSML tool_calls> invoke… </DSML tool_calls>] EOS

One marker is awaited at a time. Text is passed on as soon as no marker can begin in it, so every
way of cutting a completion gives the same message.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from dsv4.protocol.call import Call
from dsv4.protocol.constants import BOS, CONTROL, DSML, END_THINK, EOS, THINK
from dsv4.protocol.deltas import Content, Delta, End, ErrorRecord, Reasoning
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.markup import Markers, json_value

BLOCK = f"\n\n<{DSML}tool_calls"
END_BLOCK = f"</{DSML}tool_calls>"
INVOKE, END_INVOKE = f"<{DSML}invoke", f"</{DSML}invoke"
PARAMETER, END_PARAMETER = f"<{DSML}parameter", f"/{DSML}parameter"
CHECKED = (BOS, EOS, THINK, END_THINK, DSML)  # what the release's parser refuses in text

LONGEST_HEAD = 1 << 12

_NAME = re.compile(r'\s*name="(.*?)">\n\n?', re.DOTALL)
_KEY = re.compile(r' name="(.*?)" string="(true|false)">', re.DOTALL)

# BLOCK stands first: while its beginning is all there is, its DSML token is not yet one in text
_TEXT = Markers(BLOCK, *CHECKED)
_STRICT_TEXT = Markers(BLOCK, *CONTROL)
_CALLS = Markers(INVOKE, END_BLOCK)
_INSIDE = Markers(PARAMETER, END_INVOKE)
_VALUE = Markers("<" + END_PARAMETER, END_PARAMETER)


class StrictReader:
    """Raises ProtocolError at the first departure from the layout.

    `as_release`: as the release's own parser, which does not look at values and refuses fewer
    tokens in text.
    """

    def __init__(self, thinking: bool, as_release: bool = False):
        self.errors: list[ErrorRecord] = []
        self.truncated = False
        self._markers = _TEXT if as_release else _STRICT_TEXT
        self._as_release = as_release
        self._new: list[Delta] = []
        self._held = ""
        self._read: Callable[[], bool] = self._read_text
        self._kind: type[Reasoning] | type[Content] = Reasoning if thinking else Content
        self._calls = 0
        self._call: Call | None = None

    def feed(self, text: str) -> list[Delta]:
        """The deltas that are certain after one more piece."""
        self._held += text
        self._new = []
        while self._held and self._read():
            pass
        return self._new

    def finish(self, stopped: bool) -> list[Delta]:
        """The last deltas. `stopped` stands for an EOS that was not passed on."""
        new = self.feed(EOS) if stopped and self._read != self._read_end else []
        if self._held or self._read not in (self._read_end, self._read_after_block):
            raise ProtocolError(f"the completion ends too early: {self._missing()}")
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
        if self._kind is Reasoning and marker == END_THINK:
            self._kind = Content
        elif self._kind is Content and marker == EOS:
            self._new.append(End())
            self._read = self._read_end
        elif self._kind is Content and marker == BLOCK:
            self._read = self._read_calls
        else:
            raise ProtocolError(f"{marker!r} may not stand in {self._kind.__name__.lower()}")
        return True

    def _read_end(self) -> bool:
        raise ProtocolError(f"text after the end of the completion: {self._held[:60]!r}")

    def _read_after_block(self) -> bool:
        if not EOS.startswith(self._held[: len(EOS)]):
            raise ProtocolError(f"text after the tool calls: {self._held[:60]!r}")
        if len(self._held) < len(EOS):
            return False
        self._held = self._held[len(EOS) :]
        self._new.append(End())
        self._read = self._read_end
        return True

    def _read_calls(self) -> bool:
        found = self._after_gap(_CALLS)
        if found == INVOKE:
            self._read = self._read_name
        elif found:
            self._read = self._read_after_block
        return bool(found)

    def _read_name(self) -> bool:
        found = _INSIDE.pattern.search(self._held)
        if found is None or found.group(1) is None:
            self._bound_head()
            return False
        name = _NAME.fullmatch(self._held, 0, found.start())
        if name is None:
            raise ProtocolError(f"not the head of a call: {self._held[: found.start()]!r}")
        self._call = Call(self._emit, self._calls, name.group(1))
        self._calls += 1
        self._held = self._held[found.end() :]
        self._enter(found.group())
        return True

    def _read_gap(self) -> bool:
        found = self._after_gap(_INSIDE)
        if found:
            self._enter(found)
        return bool(found)

    def _enter(self, marker: str) -> None:
        assert self._call is not None
        if marker == PARAMETER:
            self._read = self._read_key
        else:
            self._call.end()
            self._read = self._read_calls

    def _read_key(self) -> bool:
        assert self._call is not None
        end = self._held.find(END_PARAMETER)
        head = _KEY.match(self._held, 0, end if end >= 0 else len(self._held))
        if head is None:
            if end >= 0:
                raise ProtocolError(f"not the head of a parameter: {self._held[:end]!r}")
            self._bound_head()
            return False
        key, string = head.groups()
        if key in self._call.keys:
            raise ProtocolError(f"parameter {key!r} is given twice")
        self._call.begin(key, string == "true")
        self._held = self._held[head.end() :]
        self._read = self._read_value
        return True

    def _read_value(self) -> bool:
        assert self._call is not None
        held = self._held
        found = _VALUE.pattern.search(held)
        cut = found.start() if found else len(held)
        if cut:
            self._call.piece(held[:cut])
        if found is None or found.group(1) is None:
            self._held = held[cut:]
            return False
        self._held = held[found.end() :]
        if found.group() == END_PARAMETER:
            raise ProtocolError("the end tag of a parameter lacks its <")
        if not self._as_release and not self._call.string:
            _check_json(self._call.value())
        self._call.end_value()
        self._read = self._read_gap
        return True

    def _bound_head(self) -> None:
        """A head is read again with every piece: without an end to it, time would be squared."""
        if len(self._held) > LONGEST_HEAD and not self._as_release:
            raise ProtocolError(f"a tag of over {LONGEST_HEAD} characters: {self._held[:60]!r}")

    def _after_gap(self, markers: Markers) -> str:
        """The marker that stands after `>` and a line end, "" if more text is needed."""
        gap, text = ">\n", self._held
        if not text.startswith(gap[: len(text)]):
            raise ProtocolError(f"a tag must end in '>' and a line end: {text[:60]!r}")
        if len(text) <= len(gap):
            return ""
        found = markers.pattern.match(text, len(gap))
        if found is None:
            raise ProtocolError(f"unexpected text among tool calls: {text[len(gap) :][:60]!r}")
        if found.group(1) is None:
            return ""
        self._held = text[found.end() :]
        return found.group(1)


def _check_json(value: str) -> None:
    try:
        json_value(value)
    except ValueError as error:
        raise ProtocolError(f'string="false", but {value[:60]!r} is no JSON') from error
