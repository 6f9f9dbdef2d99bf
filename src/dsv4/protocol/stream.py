"""Completions back to messages: at once, or while they arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dsv4.protocol.deltas import CallStart, Content, Delta, ErrorRecord, Reasoning, message_of
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.marks import marked, plain, shown
from dsv4.protocol.reading import Offer
from dsv4.protocol.stop import ContentStop
from dsv4.protocol.strict import StrictReader
from dsv4.protocol.tolerant import TolerantReader

Mode = Literal["strict", "tolerant"]
PIECE = 1 << 14  # longer texts are read in pieces, so that time stays linear in their length


class StreamParser:
    """Fed pieces of a completion, yields typed deltas; `finish` gives the message.

    A piece is text, in which whatever spells a control token is one, or a pair (text, is it a
    control token), where only those are that are known to be; one parser takes one of the two.

    `thinking_mode` is "chat" or "thinking", as in the prompt. Strict: raises ProtocolError at the
    first departure from the layout, at a `string="false"` value that is no JSON and at a control
    token in text. Tolerant: never raises; `errors` says what departed, `truncated` that the
    completion broke off. `tools` (OpenAI's form) and `tool_choice` are those of the request: with
    tools known, tolerant reading knows unknown names, types that were left out and arguments that
    were wrapped twice; with none offered, or `tool_choice` "none", calls stay text.

    `begins`: where the prompt ended: "reply", newly opened; "reasoning" or "content", a prefix that
    is continued; "calls", after the start of a block. `stop`: strings, or one, that end the answer;
    they are looked for in content alone. `stopped_by` says which it was; what comes after is not
    read.
    """

    def __init__(
        self,
        thinking_mode: str,
        mode: str = "strict",
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        *,
        begins: str = "reply",
        stop: str | Sequence[str] | None = None,
    ):
        if mode not in ("strict", "tolerant"):
            raise ProtocolError(f"mode = {mode!r}: must be strict or tolerant")
        if begins not in ("reply", "reasoning", "content", "calls"):
            raise ProtocolError(f"begins = {begins!r}: must be reply, reasoning, content or calls")
        thinking = _is_thinking(thinking_mode)
        reasons = begins == "reasoning" or (begins == "reply" and thinking)
        self._kind: type[Reasoning] | type[Content] = Reasoning if reasons else Content
        self._offer, self._strict, self._begins = (
            Offer(tools, tool_choice),
            mode == "strict",
            begins,
        )
        self._reader: StrictReader | TolerantReader | None = None
        self._marks = False
        self._stop = ContentStop(stop)
        self._deltas: list[Delta] = []
        self._closed = False

    def _open(self, marks: bool) -> StrictReader | TolerantReader:
        """The reader, when it is known what pieces are."""
        if self._reader is None:
            self._marks, calls = marks, self._begins == "calls"
            begun = self._begins != "reply"
            self._reader = (
                StrictReader(self._kind, calls=calls, marks=marks)
                if self._strict
                else TolerantReader(self._kind, self._offer, begun=begun, calls=calls, marks=marks)
            )
        elif marks != self._marks:
            raise ProtocolError("a parser is fed text, or pairs of text and kind: not both")
        return self._reader

    def feed(self, piece: str | tuple[str, bool]) -> list[Delta]:
        """The deltas that are certain after one more piece."""
        if self._closed:
            raise ProtocolError("the parser was closed: begin a new one for a new completion")
        marks = not isinstance(piece, str)
        reader = self._open(marks)
        if isinstance(piece, str):
            text = piece
        else:
            text = marked(piece[0]) if piece[1] else plain(piece[0])
        if self.stopped_by is not None:
            return []
        if len(text) <= PIECE:
            new = reader.feed(text)
        else:
            pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
            new = [delta for piece in pieces for delta in reader.feed(piece)]
        return self._pass(new)

    def close(self, stopped: bool = False) -> list[Delta]:
        """The completion is over: the deltas of what was held back.

        `stopped` says that the model ended it, where the text has no end-of-sentence token because
        the engine strips it.
        """
        if self._closed:
            return []
        new: list[Delta] = []
        if self.stopped_by is None:
            new = self._pass(self._open(self._marks).finish(stopped))
            rest = self._stop.finish()
            self._deltas += rest
            new += rest
        self._closed = True
        return new

    def _pass(self, new: list[Delta]) -> list[Delta]:
        if self._marks:
            new = [shown(delta) for delta in new]
        new = self._stop.push(new)
        self._deltas += new
        return new

    def finish(self, stopped: bool = False) -> dict[str, Any]:
        """Closes; the message {role, content, reasoning_content, tool_calls} of all deltas."""
        self.close(stopped)
        return message_of(self._deltas)

    @property
    def errors(self) -> list[ErrorRecord]:
        """What departed from the layout; always empty in strict mode."""
        found = [] if self._reader is None else self._reader.errors
        return [shown(error) for error in found] if self._marks else found

    @property
    def truncated(self) -> bool:
        """The completion broke off: no end token came, nor a whole block of calls."""
        return self._reader is not None and self._reader.truncated

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stop.matched

    @property
    def finish_reason(self) -> Literal["stop", "length", "tool_calls"]:
        """Of the closed parser, in OpenAI's words; `length`: it broke off, inside a call or not."""
        if self.stopped_by is None and self.truncated:
            return "length"
        calls = any(isinstance(delta, CallStart) for delta in self._deltas)
        return "tool_calls" if calls and self.stopped_by is None else "stop"


def parse_message(
    text: str, thinking_mode: str, mode: str = "strict", **options: Any
) -> dict[str, Any]:
    """The message of a whole completion; `options` are those of StreamParser."""
    parser = StreamParser(thinking_mode, mode, **options)
    parser.feed(text)
    return parser.finish()


def parse_message_from_completion_text(text: str, thinking_mode: str) -> dict[str, Any]:
    """The message of a completion, as the release's function of that name reads it.

    Returns {"role", "content", "reasoning_content", "tool_calls"}, arguments as JSON text. Raises
    ProtocolError where the release does: any departure from the layout.
    """
    kind: type[Reasoning] | type[Content] = Reasoning if _is_thinking(thinking_mode) else Content
    reader = StrictReader(kind, as_release=True)
    pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    deltas = [delta for piece in pieces for delta in reader.feed(piece)]
    return message_of(deltas + reader.finish(stopped=False))


def _is_thinking(mode: str) -> bool:
    if mode not in ("chat", "thinking"):
        raise ProtocolError(f"thinking_mode = {mode!r}: must be chat or thinking")
    return mode == "thinking"
