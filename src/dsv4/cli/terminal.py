"""A dialogue's lines: edited and remembered at a terminal, plain from a pipe.

At a terminal the kernel neither echoes nor cuts what is typed: it would end a pasted line at 4,095
bytes, and mix what is typed during a reply into it.
"""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dsv4.cli.streams import BOM, stdin

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PASTE_ON, PASTE_OFF = (
    "\x1b[?2004h",
    "\x1b[?2004l",
)  # the terminal marks where a paste begins and ends
LEAVE = "Ctrl-C again leaves"


def interactive() -> bool:
    """Somebody types, and sees the prompt."""
    return stdin().isatty() and _screen() is not None


def piped_lines() -> Iterator[str]:
    """The lines of stdin, without their ends. Raises ValueError for one that is no UTF-8."""
    for number, raw in enumerate(stdin().buffer, 1):
        line = raw.removeprefix(BOM) if number == 1 else raw
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"stdin: line {number} is not UTF-8") from error


def typed_lines() -> Iterator[str]:
    """What the user enters; a paste of many lines is one. Ends at Ctrl-D, or Ctrl-C twice."""
    armed: list[bool] = []  # a second Ctrl-C leaves
    session = _session(armed)
    while True:
        armed.clear()
        try:
            text = session.prompt("> ")
        except EOFError:
            return
        _command(PASTE_ON)  # for what is pasted during the reply
        yield text


@contextmanager
def quiet() -> Iterator[None]:
    """At a terminal: it neither echoes nor gathers lines, but Ctrl-C is still an interrupt."""
    if not interactive():
        yield
        return
    terminal = stdin().fileno()
    before = termios.tcgetattr(terminal)
    during = termios.tcgetattr(terminal)
    during[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(terminal, termios.TCSANOW, during)
    _command(PASTE_ON)
    try:
        yield
    finally:
        _command(PASTE_OFF)
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def history_file() -> Path:
    """Where lines are remembered: the user's folder for state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state else Path.home() / ".local" / "state") / "dsv4" / "history"


def _session(armed: list[bool]) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.input import create_input
    from prompt_toolkit.output.vt100 import Vt100_Output

    screen = _screen()
    assert screen is not None
    output = Vt100_Output.from_pty(screen, term=os.environ.get("TERM"))
    output.enable_cpr = False  # an answer that never comes would be complained about
    session: PromptSession[str] = PromptSession(
        history=_history(),
        key_bindings=_keys(armed),
        multiline=True,
        prompt_continuation=lambda width, line, wrapped: "" if wrapped else "… ",
        rprompt=lambda: LEAVE if armed else "",
        input=create_input(stdin()),
        output=output,
    )
    session.default_buffer.on_text_changed += lambda _: armed.clear()
    return session


def _keys(armed: list[bool]) -> KeyBindings:
    """Enter sends, Alt-Enter begins a line; Ctrl-C clears, and given again at once it leaves."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    @keys.add("<sigint>")
    def clear_or_leave(event: KeyPressEvent) -> None:
        if armed:
            event.app.exit(exception=EOFError)
        event.current_buffer.reset()
        armed[:] = [True]

    return keys


def _history() -> History:
    """The file's, or none where it cannot be kept."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class Kept(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError):  # a full disk does not end the dialogue
                super().store_string(string)

    file = history_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.read_bytes()
    except OSError:
        return InMemoryHistory()
    return Kept(str(file))


def _screen() -> TextIO | None:
    """Where the prompt is seen: stdout, or stderr while stdout goes elsewhere."""
    return next((one for one in (sys.stdout, sys.stderr) if one.isatty()), None)


def _command(sequence: str) -> None:
    screen = _screen()
    if screen is not None:
        screen.write(sequence)
        screen.flush()
