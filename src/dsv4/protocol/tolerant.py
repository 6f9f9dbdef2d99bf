"""A completion as models really write it: never an exception, never a lost character.

What departs from the layout but can be understood is read, with a record of the departure; what
cannot comes back as text where it stood, with a record too. No record means that the strict reader
gives the same message. The readings are tabled in docs/protocol.md. States, each a small class:

    Text → Block → Head → Arguments ⇄ Value      Trial: the same on trial      Ended
"""

from __future__ import annotations

from collections.abc import Iterable

from dsv4.protocol.block import Block, Trial
from dsv4.protocol.constants import END_THINK, EOS, THINK
from dsv4.protocol.deltas import Content, Delta, End, ErrorRecord, Reasoning
from dsv4.protocol.marks import marked
from dsv4.protocol.reading import Offer, Reading
from dsv4.protocol.scan import BEGINS, Scanner, without_line_ends
from dsv4.protocol.state import Outer, State
from dsv4.protocol.tags import Half, Item, Step, Tag, ends, is_text, opens, opens_unknown, raw


class TolerantReader:
    """Never raises. `kind`: what the completion begins with; `begun`: something came before it,
    a prefix that is continued, or, with `calls`, the start of a block.
    """

    def __init__(
        self,
        kind: type[Reasoning] | type[Content],
        offer: Offer,
        *,
        begun: bool = False,
        calls: bool = False,
        marks: bool = False,
    ):
        self._reading = Reading(offer, kind, marks)
        self._scanner = Scanner(marks)
        self._text = Text(self._reading, begun=begun)
        self._state: State = self._text
        if calls:
            self._reading.blocks = 1
            self._state = Block(self._text, self._reading, "", 0, exact="")

    @property
    def errors(self) -> list[ErrorRecord]:
        """The departures so far, in order."""
        return self._reading.records.all()

    @property
    def truncated(self) -> bool:
        """The completion broke off."""
        return self._reading.truncated

    def feed(self, text: str) -> list[Delta]:
        """The deltas that are certain after one more piece."""
        scanner = self._scanner
        plain = self._state is self._text and self._text.plain and not scanner.held
        if plain and text and not BEGINS.search(text):
            scanner.offset += len(text)
            self._text.line = False
            return [self._reading.kind(text)]
        self._read(scanner.push(text))
        return self._taken()

    def finish(self, stopped: bool) -> list[Delta]:
        """The last deltas. `stopped` stands for an EOS that was not passed on."""
        scanner = self._scanner
        eos = marked(EOS) if scanner.marks else EOS
        ended = isinstance(self._state, Ended) or scanner.held.endswith(eos)
        half = self._read(scanner.push(eos if stopped and not ended else "", last=True))
        half = half or self._read(self._state.release(complete=stopped or ended))
        if half:
            self._state.cut(raw(half.item), half.at)
        elif not isinstance(self._state, Ended):
            self._state.cut("", scanner.offset)
        return self._taken()

    def _read(self, steps: Iterable[Step]) -> Step | None:
        """Goes through the states; the step that holds half a tag, if one is at the end."""
        for step in steps:
            if isinstance(step.item, Half):
                self._state = self._state.step(step._replace(item=None))
                return step
            self._state = self._state.step(step)
            self._scanner.mode = self._state.mode
        return None

    def _taken(self) -> list[Delta]:
        new, self._reading.new = self._reading.new, []
        return new


class Text(Outer):
    """Reasoning or content."""

    def __init__(self, reading: Reading, begun: bool):
        self.reading = reading
        self.thinking = reading.kind is Reasoning
        self.fresh = not begun  # nothing but space has been read
        self.line = not begun  # what comes next begins a line
        self.gap: str | None = None  # space that is layout if nothing follows; None: it is text

    @property
    def plain(self) -> bool:
        """Text that holds nothing is passed on as it is."""
        return not self.fresh and self.gap is None and not self.reading.blocks

    def after_block(self, closed: bool) -> State:
        """The state after a block."""
        self.fresh = self.line = False
        self.gap = "" if closed else None
        return self

    def step(self, step: Step) -> State:
        """Text, and what may open a block or end the text."""
        text, item, at = step
        may_call = self.reading.offer.may_call
        block = may_call and (opens(item, "tool_calls") or opens_unknown(item))
        call = may_call and opens(item, "invoke")
        space = ""  # layout between a block and what follows
        if self.gap is not None:
            text = self.gap + text
            if item is None and not is_text(text):
                self.gap = text
                return self
            leaves = block or call or self._is_stray(item) or item == EOS
            if is_text(text) or not (leaves or self._ends_reasoning(item)):
                self.gap = None
            else:
                space, text = text, ""
        if (block or call) and self.gap is None:
            lead = without_line_ends(text, 2)
            text, space = lead, text[len(lead) :]
        self._say(text, at - len(space) - len(text))
        if isinstance(item, Tag) and (block or call):
            return self._open(space, item, at, call)
        if item is None:
            return self
        if space:
            self.reading.note("layout", space, at - len(space))
        return self._token(item, at)

    def _ends_reasoning(self, item: Item) -> bool:
        return item == END_THINK and self.reading.kind is Reasoning

    def _is_stray(self, item: Item) -> bool:
        """An end tag after a block, or an end of reasoning that was not open, ends nothing."""
        if isinstance(item, Tag):
            return ends(item) and self.reading.blocks > 0
        return item == END_THINK and self.reading.kind is Content

    def _say(self, text: str, at: int) -> None:
        if not text:
            return
        self.fresh = self.fresh and text.isspace()
        self.line = text.endswith("\n")
        if self.reading.blocks and self.reading.kind is Content:
            self.reading.note("text_after_calls", text, at)
        self.reading.say(text)

    def _token(self, item: Item, at: int) -> State:
        reading, text = self.reading, raw(item)
        fresh, self.fresh = self.fresh, False
        if item == EOS:
            if reading.kind is Reasoning:
                reading.note("open_reasoning", EOS, at)
            reading.emit(End())
            return Ended(reading)
        if self._ends_reasoning(item):
            reading.kind, self.gap, self.line = Content, None, True
        elif fresh and (item == THINK or (item == END_THINK and not self.thinking)):
            reading.note("redundant_think", text, at)
            reading.kind = Reasoning if item == THINK else Content
        elif self._is_stray(item):
            reading.note("stray_end", text, at)
            self.gap = None if self.gap is None else ""
        else:
            self.gap = None
            kind = "unexpected_markup" if reading.offer.may_call else "not_offered"
            reading.refuse(kind if isinstance(item, Tag) else "unexpected_markup", text, at)
            self.line = False
        return self

    def _open(self, space: str, tag: Tag, at: int, call: bool) -> State:
        reading = self.reading
        text, begin = space + tag.raw, at - len(space)
        if call and not (space.endswith("\n") or (not space and self.line)):
            self._say(space, begin)
            reading.refuse("unexpected_markup", tag.raw, at)
            self.line, self.gap = False, None
            return self
        kind = ""
        if reading.kind is Reasoning:
            kind = "block_in_reasoning"
        elif reading.blocks:
            kind = "second_block"
        elif space != "\n\n" or not tag.exact:
            kind = "layout"
        self.gap = None
        if call:
            return Trial(self, reading, space, Step("", tag, at), kind)
        reading.note(kind, text, begin)
        reading.blocks += 1
        return Block(self, reading, text, begin, word="" if tag.name else tag.word)

    def cut(self, half: str, at: int) -> None:
        """What came counts; after a block the end token may be missing."""
        gap, self.gap = self.gap, None
        if gap is not None and not half:
            self.reading.note("layout", gap, at - len(gap))
            return
        self._say((gap or "") + half, at - len(gap or ""))
        self.reading.truncate(half, at)


class Ended(State):
    """After the end of the completion."""

    def __init__(self, reading: Reading):
        self.reading = reading

    def step(self, step: Step) -> State:
        """Text that nobody asked for."""
        text = step.text + raw(step.item)
        self.reading.refuse("text_after_end", text, step.at - len(step.text))
        return self

    def cut(self, half: str, at: int) -> None:
        """It cannot, but for what looks like half a tag."""
        if half:
            self.reading.refuse("text_after_end", half, at)
