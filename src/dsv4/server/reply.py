"""ids → pieces of text → deltas, in the engine's thread; whoever reads them waits in an event loop.

A token's log-probability goes with the text that it became: one that was markup, or part of a stop
string, has none.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol

from dsv4.engine.request import Finished, Handle, Token, Usage
from dsv4.protocol.constants import DSML, END_THINK, EOS
from dsv4.protocol.deltas import CallStart, Content, Delta, Reasoning
from dsv4.protocol.stream import StreamParser
from dsv4.server.names import call_id
from dsv4.tokenizer import Tokenizer

MOMENT = 0.001  # seconds: an engine has told all of a step by then
UNREAD = 8_192  # tokens that may wait for a client that does not read

Kind = type[Reasoning] | type[Content]


class Parser(Protocol):
    """What turns pieces of a reply into deltas: `StreamParser`, or a reader of plain text."""

    def feed(self, piece: tuple[str, bool]) -> list[Delta]:
        """The deltas that are certain after one more piece."""
        ...

    def close(self, stopped: bool = False) -> list[Delta]:
        """The rest."""
        ...

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended it."""
        ...

    @property
    def finish_reason(self) -> str:
        """Why it ended: stop, length or tool_calls."""
        ...


class Spoken(NamedTuple):
    """A token that was said, as reasoning or as content."""

    kind: Kind
    token: Token


class Update(NamedTuple):
    """What came since the last one."""

    deltas: list[Delta]
    spoken: list[Spoken]


class Bell:
    """Calls into an event loop from any thread: once for all that rings until the loop answers.

    A step of an engine tells many replies something, one after another: where others wait too, the
    loop leaves the interpreter to the engine for a moment, and then wakes all of them.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.waiting = 0  # readers
        self._rung: deque[Inbox] = deque()
        self._told = False

    def ring(self, inbox: Inbox) -> None:
        """Something came into `inbox`."""
        self._rung.append(inbox)
        if not self._told:
            self._told = True
            self.loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        if self.waiting > 1:
            self.loop.call_later(MOMENT, self._wake)
        else:
            self._wake()

    def _wake(self) -> None:
        self._told = False  # first: who rings from here on calls again
        while self._rung:
            self._rung.popleft().come()


class Inbox:
    """Wakes one reader in an event loop, from any thread."""

    def __init__(self, bell: Bell | None = None) -> None:
        self._bell = bell or Bell()
        self._told = self._came = False
        self._waiter: asyncio.Future[bool] | None = None

    def wake(self) -> None:
        """Something came."""
        if not self._told:
            self._told = True
            self._bell.ring(self)

    def come(self) -> None:
        """The same, told in the loop."""
        self._came = True
        self._wake(True)

    async def wait(self, seconds: float) -> bool:
        """Whether something came within that time."""
        if not self._came:
            bell = self._bell
            self._waiter = bell.loop.create_future()
            timer = bell.loop.call_later(seconds, self._wake, False)
            bell.waiting += 1
            try:
                if not await self._waiter:
                    return False
            finally:
                bell.waiting -= 1
                timer.cancel()
                self._waiter = None
        self._came = self._told = False
        return True

    def _wake(self, came: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(came)


class Reply:
    """Listens to one job. `marks`: control tokens that the parser reads; all others are not text.

    `unreasoned` is told to ids of calls (see names.py). The engine's thread writes, the reader
    takes; `usage`, `prompt` and `end` are there once they are known.
    """

    def __init__(
        self,
        parser: Parser,
        tokenizer: Tokenizer,
        inbox: Inbox,
        *,
        marks: frozenset[str],
        thinking: bool = False,
        scored: bool = False,
    ):
        self._parser, self._text, self._inbox = parser, tokenizer.stream(), inbox
        self._marks, self._thinking, self._scored = marks, thinking, scored
        self._lock = threading.Lock()
        self._handle: Handle | None = None
        self._gone = self._stalled = False
        self._unread = 0
        self._new = Update([], [])
        self._silent: list[Token] = []  # tokens whose text is not certain yet
        self.ids: list[int] = []
        self.said: list[Token] = []  # with log-probabilities, where they were asked for
        self.call_ids: list[str] = []
        self.reasoning_tokens = 0
        self.usage: Usage | None = None
        self.prompt: Sequence[Token] = ()
        self.end: Finished | None = None

    # ---- in the engine's thread --------------------------------------------------------------

    def prefilled(self, usage: Usage, prompt: Sequence[Token] = ()) -> None:
        """See `Listener`."""
        self.usage, self.prompt = usage, prompt
        self._inbox.wake()

    def tokens(self, new: Sequence[Token]) -> bool:
        """See `Listener`: the reply is over at a stop string, or if nobody reads it."""
        update = Update([], [])
        for token in new:
            self.ids.append(token.id)
            if self._scored:
                self.said.append(token)
            self._read(token, update)
            if self._parser.stopped_by is not None:
                break
        self._pass(update, len(new))
        self._stalled = self._unread > UNREAD
        return self._stalled or self._parser.stopped_by is not None

    def finished(self, end: Finished) -> None:
        """See `Listener`."""
        update = Update([], [])
        try:
            if self._stalled:
                end = Finished("error", end.usage, TimeoutError("the client does not read"))
            elif end.reason in ("stop", "length"):
                rest = self._text.finish()
                deltas = self._parser.feed((rest, False)) if rest else []
                deltas += self._parser.close(stopped=end.reason == "stop")
                self._note(deltas, update)
        except Exception as error:
            end = Finished("error", end.usage, error)
        self.usage = end.usage
        with self._lock:
            self.end = end
        self._pass(update, 0)

    def _read(self, token: Token, update: Update) -> None:
        deltas: list[Delta] = []
        pieces = self._text.pieces(token.id)
        for piece, control in pieces:
            if not control or piece in self._marks:
                deltas += self._parser.feed((piece, control))
        if not any(control for _, control in pieces):
            self._silent.append(token)
        self._note(deltas, update)

    def _note(self, deltas: list[Delta], update: Update) -> None:
        """Deltas, and the tokens that they came of."""
        if not deltas:
            return
        kind = next((type(d) for d in deltas if isinstance(d, Reasoning | Content)), None)
        if kind is not None and isinstance(deltas[0], Reasoning | Content):
            self.reasoning_tokens += len(self._silent) * (kind is Reasoning)
            if self._scored:
                update.spoken.extend(Spoken(kind, token) for token in self._silent)
        self._silent.clear()
        for delta in deltas:
            if isinstance(delta, CallStart):
                unreasoned = self._thinking and self.reasoning_tokens == 0
                self.call_ids.append(call_id(delta.call, unreasoned))
        update.deltas.extend(deltas)

    def _pass(self, update: Update, count: int) -> None:
        with self._lock:
            self._new.deltas.extend(update.deltas)
            self._new.spoken.extend(update.spoken)
            self._unread += count
        self._inbox.wake()

    # ---- for the reader ----------------------------------------------------------------------

    def take(self) -> tuple[Update, bool]:
        """What came since the last time, and whether it was the last."""
        with self._lock:
            update, self._new, self._unread = self._new, Update([], []), 0
            return update, self.end is not None

    def attach(self, handle: Handle) -> None:
        """The job was accepted."""
        with self._lock:
            self._handle = handle
            gone = self._gone
        if gone:
            handle.cancel()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._gone = True
            handle = self._handle if self.end is None else None
        if handle is not None:
            handle.cancel()

    def message(self) -> dict[str, Any] | None:
        """The message of a reply that was said as the protocol has it, its calls with their ids;
        None of one that was mended, cut inside a call, or ended by a stop string.
        """
        parser, end = self._parser, self.end
        if not isinstance(parser, StreamParser) or end is None or parser.stopped_by is not None:
            return None
        message = parser.finish()
        kinds = {error.kind for error in parser.errors}
        cut = end.reason == "length" and not message["tool_calls"]
        if end.reason not in ("stop", "length") or kinds - ({"truncated"} if cut else set()):
            return None
        for known, call in zip(self.call_ids, message["tool_calls"], strict=True):
            call["id"] = known
        return message

    @property
    def finish_reason(self) -> str:
        """stop, length or tool_calls; of a reply that came to its end."""
        return self._parser.finish_reason

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended it."""
        return self._parser.stopped_by


def marks_of(offered: bool) -> frozenset[str]:
    """The control tokens that reading a chat's reply needs; calls are there with tools alone."""
    return frozenset({EOS, END_THINK, DSML} if offered else {EOS, END_THINK})


async def updates(
    replies: Sequence[Reply], inbox: Inbox, quiet: float
) -> AsyncIterator[tuple[int, Update, bool] | None]:
    """(number of the reply, what came, whether it is over); None after `quiet` seconds of nothing.

    Ends when all are over.
    """
    left = dict(enumerate(replies))
    while left:
        if not await inbox.wait(quiet):
            yield None
            continue
        for number, reply in list(left.items()):
            update, over = reply.take()
            if over:
                del left[number]
            yield number, update, over
