"""A block of calls, in tolerant reading, and calls that stand without a block's start."""

from __future__ import annotations

from dsv4.protocol.call import Call
from dsv4.protocol.constants import END_THINK, EOS
from dsv4.protocol.deltas import CallArguments, CallEnd, Reasoning
from dsv4.protocol.invocation import Head
from dsv4.protocol.marks import unmarked
from dsv4.protocol.reading import Reading
from dsv4.protocol.scan import Mode
from dsv4.protocol.state import Outer, State
from dsv4.protocol.tags import Item, Step, Tag, closes, ends, is_of_block, is_text, opens, raw


class Block(State):
    """Between the calls of a block."""

    def __init__(
        self,
        outer: Outer,
        reading: Reading,
        opener: str,
        at: int,
        word: str = "",
        exact: str = "\n",
    ):
        self.outer, self.reading = outer, reading
        self.opener, self.at = opener, at  # its text, as long as it has no call
        self.word = word  # the tag's name, if that is unknown
        self.gap: str | None = ""  # space that is layout if a tag follows; None: space is text
        self.exact: tuple[str, ...] = (exact,)  # the layout's space before the next tag

    def step(self, step: Step) -> State:
        """Space, then the next call or the end of the block."""
        text, item, at = step
        if self.gap is not None:
            text = self.gap + text
            if not is_text(text) and item is None:
                self.gap = text
                return self
        junk = self.gap is None or is_text(text)
        gap, self.gap = ("", None) if junk else (text, None)
        if self.opener and not self._may_follow(text if junk else "", item):
            return self._refuse_block(Step(text, item, at))
        if junk and text:
            self.reading.refuse("text_among_calls", text, at - len(text))
        if item is None:
            return self
        if junk:
            self.exact = ("",)  # no space stands between text and a tag
        return self._read(Step(gap, item, at))

    def _may_follow(self, junk: str, item: Item) -> bool:
        if junk:
            return False
        return opens(item, "invoke") if self.word else item is None or is_of_block(item)

    def _refuse_block(self, step: Step) -> State:
        """A block's tag without a call, as when prose speaks of it, is text."""
        self.reading.refuse("unexpected_markup", self.opener, self.at)
        self.reading.blocks -= 1
        return self.outer.after_block(closed=False).step(step)

    def _read(self, step: Step) -> State:
        gap, item, at = step
        reading = self.reading
        if isinstance(item, Tag) and is_of_block(item):
            if opens(item, "tool_calls"):  # its predecessor was never closed
                reading.note("second_block", item.raw, at)
                self.opener, self.gap, self.exact = "", "", ("\n",)
                return self
            reading.note_tag(gap, step, item.raw, item.exact, *self.exact)
            return self._open_call(gap, item, at) if not item.closing else self._close()
        if isinstance(item, Tag) and item.closing and item.word == self.word and self.word:
            reading.note("layout", item.raw, at)
            return self._close()
        if item == EOS or (item == END_THINK and reading.kind is Reasoning):
            reading.note("missing_end", raw(item), at)
            return self.outer.after_block(closed=False).step(Step("", item, at))
        if item == END_THINK or ends(item):
            reading.note("stray_end", raw(item), at)
            self.gap = ""
            return self
        reading.refuse("unexpected_markup", raw(item), at)
        return self

    def _close(self) -> State:
        self.opener = ""
        return self.outer.after_block(closed=True)

    def _open_call(self, gap: str, tag: Tag, at: int) -> State:
        reading, name = self.reading, unmarked(tag.attributes["name"])
        if not reading.offer.has(name):
            reading.note("unknown_tool", tag.raw, at)
        if not tag.empty:
            return Head(self, name, gap, tag, at)
        Call(reading.emit, reading.calls, name).end_with("{}")
        reading.calls += 1
        return self.after_call(None, at)

    def after_call(self, item: Item, at: int) -> State:
        """A call has ended, by its own end tag or by `item`, which is read anew."""
        self.opener = ""
        self.gap, self.exact = ("", ("\n",)) if item is None else (None, ("",))
        return self if item is None else self.step(Step("", item, at))

    def refuse_call(self, text: str, begin: int, item: Item, at: int) -> State:
        """What looked like a call is text."""
        state = self._as_text("void_call", text, begin)
        if item is None:
            return state
        self.gap = None
        return state.step(Step("", item, at))

    def _as_text(self, kind: str, text: str, begin: int) -> State:
        opener, self.opener = self.opener, ""
        self.reading.refuse(kind, opener + text, begin - len(opener))
        self.gap = None
        if not opener:
            return self
        self.reading.blocks -= 1
        return self.outer.after_block(closed=False)

    def cut_void(self, text: str, begin: int) -> None:
        """The completion broke off in what looked like a call."""
        self.reading.truncated = True
        self._as_text("truncated", text, begin)

    def cut(self, half: str, at: int) -> None:
        """Calls that are whole count; a block without one is text."""
        gap = self.gap or ""
        if self.opener:
            self.cut_void(gap + half, self.at + len(self.opener))
        else:
            self.reading.truncate(half, at)


class Trial(State):
    """Calls without a block's start, at the beginning of a line: prose if more than calls follows.

    What they say is kept back until the block's end tag or the end of the completion.
    """

    def __init__(self, outer: Outer, reading: Reading, space: str, step: Step, kind: str):
        self.outer, self.reading = outer, reading
        self.trial = reading.fork()
        self.end = _TrialEnd(self.trial)
        self.begin = step.at - len(space)
        tag = raw(step.item)
        self.raw = [space, tag]
        self.tagged = 2  # so many pieces of it end with the last tag
        self.trial.blocks += 1
        self.trial.note("missing_start" if kind in ("", "layout") else kind, tag, step.at)
        block = Block(self.end, self.trial, "", step.at, exact="")
        self.state: State = block.step(Step("", step.item, step.at))

    @property
    def mode(self) -> Mode:
        """How the text is to be searched."""
        return self.state.mode

    def step(self, step: Step) -> State:
        """Read on trial; anything but calls makes all of it text."""
        self.state = self.state.step(step)
        if (
            self.trial.said
            or self.trial.guessed
            or (self.state is self.end and not self.end.by(step.item))
        ):
            self.reading.refuse("void_call", "".join(self.raw[: self.tagged]), self.begin)
            text = "".join(self.raw[self.tagged :]) + step.text
            return self.outer.after_block(closed=False).step(step._replace(text=text))
        self.raw += [step.text, raw(step.item)]
        if step.item is not None:
            self.tagged = len(self.raw)
        if self.state is not self.end:
            return self
        self.reading.absorb(self.trial)
        if closes(step.item, "tool_calls"):
            return self.outer.after_block(closed=True)
        return self.outer.after_block(closed=False).step(Step("", step.item, step.at))

    def release(self, complete: bool) -> list[Step]:
        """What a value in it held, which is now read again."""
        steps = self.state.release(complete)
        if steps:
            begin = steps[0].at - len(steps[0].text)
            self.raw = ["".join(self.raw)[: begin - self.begin]]
            self.tagged = 1
        return steps

    def cut(self, half: str, at: int) -> None:
        """With a parameter it was a call."""
        self.state.cut(half, at)
        begun = any(isinstance(delta, CallArguments | CallEnd) for delta in self.trial.new)
        if begun and not self.trial.said:
            self.reading.absorb(self.trial)
        else:
            self.reading.truncated = True
            self.reading.refuse("truncated", "".join(self.raw) + half, self.begin)


class _TrialEnd(Outer):
    """Stands for the text after calls on trial."""

    def __init__(self, reading: Reading):
        self.reading = reading

    def after_block(self, closed: bool) -> State:
        """Itself."""
        return self

    def by(self, item: Item) -> bool:
        """Whether `item` may end calls that have no block's start."""
        return item == EOS or closes(item, "tool_calls")

    def step(self, step: Step) -> State:
        """Left to the text itself."""
        return self

    def cut(self, half: str, at: int) -> None:
        """Never asked: the trial is over."""
