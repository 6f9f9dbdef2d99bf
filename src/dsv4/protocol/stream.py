"""Completions back to messages: at once, or while they arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dsv4.protocol.deltas import Delta, ErrorRecord, message_of
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.strict import StrictReader
from dsv4.protocol.tolerant import TolerantReader

Mode = Literal["strict", "tolerant"]
PIECE = 1 << 14  # longer texts are read in pieces, so that time stays linear in their length


class StreamParser:
    """Fed pieces of a completion, yields typed deltas; `finish` gives the message.

    `thinking_mode` is "chat" or "thinking", as in the prompt. Strict: raises ProtocolError at the
    first departure from the layout, at a `string="false"` value that is no JSON and at a control
    token in text. Tolerant: never raises; `errors` says what departed, `truncated` that the
    completion broke off. `tools` (OpenAI's form) and `tool_choice` are those of the request: with
    tools known, tolerant reading knows unknown names, types that were left out and arguments that
    were wrapped twice; with none offered, or `tool_choice` "none", calls stay text.
    """

    def __init__(
        self,
        thinking_mode: str,
        mode: str = "strict",
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
    ):
        thinking = _is_thinking(thinking_mode)
        self._reader: StrictReader | TolerantReader
        if mode == "strict":
            self._reader = StrictReader(thinking)
        elif mode == "tolerant":
            may_call = tool_choice != "none" and (tools is None or bool(tools))
            self._reader = TolerantReader(thinking, tools, may_call)
        else:
            raise ProtocolError(f"mode = {mode!r}: must be strict or tolerant")
        self._deltas: list[Delta] = []
        self._closed = False

    def feed(self, text: str) -> list[Delta]:
        """The deltas that are certain after one more piece."""
        if self._closed:
            raise ProtocolError("the parser was closed: begin a new one for a new completion")
        if len(text) <= PIECE:
            new = self._reader.feed(text)
        else:
            pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
            new = [delta for piece in pieces for delta in self._reader.feed(piece)]
        self._deltas += new
        return new

    def close(self, stopped: bool = False) -> list[Delta]:
        """The completion is over: the deltas of what was held back.

        `stopped` says that the model ended it, where the text has no end-of-sentence token because
        the engine strips it.
        """
        if self._closed:
            return []
        self._closed = True
        new = self._reader.finish(stopped)
        self._deltas += new
        return new

    def finish(self, stopped: bool = False) -> dict[str, Any]:
        """Closes; the message {role, content, reasoning_content, tool_calls} of all deltas."""
        self.close(stopped)
        return message_of(self._deltas)

    @property
    def errors(self) -> list[ErrorRecord]:
        """What departed from the layout; always empty in strict mode."""
        return self._reader.errors

    @property
    def truncated(self) -> bool:
        """The completion broke off: no end token came, nor a whole block of calls."""
        return self._reader.truncated


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
    reader = StrictReader(_is_thinking(thinking_mode), as_release=True)
    pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    deltas = [delta for piece in pieces for delta in reader.feed(piece)]
    return message_of(deltas + reader.finish(stopped=False))


def _is_thinking(mode: str) -> bool:
    if mode not in ("chat", "thinking"):
        raise ProtocolError(f"thinking_mode = {mode!r}: must be chat or thinking")
    return mode == "thinking"
