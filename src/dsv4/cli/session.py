"""What `dsv4 generate` and `dsv4 chat` do with a loaded model: stream text, obey slash commands.

Reasoning is dim where the terminal can show it so, and between <think> and </think> elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from dsv4.cli.reading import closing_line
from dsv4.cli.streams import note, say, visible, write
from dsv4.cli.terminal import interactive, piped_lines, typed_lines
from dsv4.interrupt import interruptible
from dsv4.machine import free_memory
from dsv4.protocol.deltas import Content, Reasoning
from dsv4.protocol.effort import EFFORT_WORDS, resolve_effort

if TYPE_CHECKING:
    from dsv4.model.transformer import Transformer
    from dsv4.sampling import Sampling
    from dsv4.tokenizer import Tokenizer

Piece = Reasoning | Content
HELP = f"""\
/reset forgets the dialogue; /exit or Ctrl-D leaves; Ctrl-C stops a reply
/effort {"|".join(EFFORT_WORDS)}
Alt-Enter begins another line; // before a command sends it to the model"""
COMMANDS = ("reset", "effort", "help", "exit", "quit")


class Ended(Protocol):
    """Why a reply ended; its `tokens`, where they are known."""

    @property
    def finish_reason(self) -> str: ...
    @property
    def tokens(self) -> int | None: ...


class Dialogue(Protocol):
    """A `Chat` with a model, or one with a server; `context` where it is known."""

    @property
    def effort(self) -> str | None: ...
    @effort.setter
    def effort(self, word: str) -> None: ...
    @property
    def revision(self) -> str: ...
    @property
    def completion(self) -> Ended: ...
    @property
    def context(self) -> int | None: ...
    @property
    def max_tokens(self) -> int: ...
    def reset(self) -> None: ...
    def ask(
        self, text: str, interrupted: Callable[[], bool], progress: Callable[[int, int], None]
    ) -> Iterator[Piece]: ...


def continue_text(
    model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int], sampling: Sampling
) -> None:
    """Print what comes after the prompt's ids, until EOS, a stop string or a limit.

    Raises KeyboardInterrupt after Ctrl-C, when what was said is printed, and ValueError, before
    anything is read, where the cache would not fit into memory.
    """
    from dsv4.generation import Reply

    _check_room(model, len(prompt) + sampling.max_tokens)
    with interruptible() as asked, closing_line() as progress:
        reply = Reply(
            model,
            prompt,
            tokenizer,
            sampling,
            interrupted=lambda: bool(asked),
            progress=progress,
        )
        for piece in reply:
            progress.end()
            write(piece)
    write("\n")
    if reply.completion.finish_reason == "interrupted":
        raise KeyboardInterrupt
    if len(reply.completion.ids) < sampling.max_tokens:
        context = model.config.max_position_embeddings
        _note_limit(reply.completion, sampling.max_tokens, context)


def _check_room(model: Transformer, tokens: int) -> None:
    """Raise ValueError where the cache of so many tokens is larger than the memory that is free."""
    if model.device.type != "cpu":
        return
    tokens = min(tokens, model.config.max_position_embeddings)
    need, free = model.new_cache(1).stores.bytes_of(tokens), free_memory()
    if need > free:
        raise ValueError(
            f"the cache of {tokens} tokens takes {need >> 20:,} MiB, {free >> 20:,} MiB of memory "
            "are free: shorten the prompt or lower --max-tokens"
        )


def converse(dialogue: Dialogue) -> None:
    """Answer what is said, until the user leaves.

    Raises KeyboardInterrupt after Ctrl-C unless somebody is there to go on.
    """
    there = interactive()
    if there:
        _tell(HELP)
    for line in typed_lines() if there else piped_lines():
        command, text = _read(line)
        if command:
            if not _obey(dialogue, command):
                return
        elif text.strip():
            _answer(dialogue, text, there)


def _read(line: str) -> tuple[list[str], str]:
    """The words of a command, or the text for the model: `/reset` is one, `/etc` is none."""
    words = line.split()
    name = words[0] if words and "\n" not in line.strip() else ""
    if name.startswith("/") and name[1:] in COMMANDS:
        return [name[1:], *words[1:]], ""
    escaped = name.startswith("//") and name[2:] in COMMANDS
    return [], line.replace("//", "/", 1) if escaped else line


def _obey(dialogue: Dialogue, command: Sequence[str]) -> bool:
    """Do what a command says, or say why not; returns whether to go on."""
    name, *rest = command
    if len(rest) > (name == "effort"):
        note(f"dsv4: /{name} takes no such words; //{name} sends the line to the model")
    elif name in ("exit", "quit"):
        return False
    elif name == "reset":
        dialogue.reset()
        _tell("the dialogue is forgotten")
    elif name == "help":
        _tell(HELP)
    else:
        _set_effort(dialogue, rest[0] if rest else dialogue.effort)
    return True


def _set_effort(dialogue: Dialogue, effort: str | None) -> None:
    if effort is None:
        _tell("effort is the server's own")
        return
    try:
        resolve_effort(effort, dialogue.revision)
    except ValueError as error:
        note(f"dsv4: {error}")
    else:
        dialogue.effort = effort
        _tell(f"effort is {effort}")


def _answer(dialogue: Dialogue, text: str, there: bool) -> None:
    """Print the reply as it comes; Ctrl-C ends it, and what was said stays in the dialogue."""
    shown = _Shown()
    try:
        with interruptible() as asked, closing_line() as progress:
            for piece in dialogue.ask(text, lambda: bool(asked), progress):
                progress.end()
                shown.add(piece)
    except (ValueError, OSError) as error:
        if shown.begun:
            shown.end()
        if isinstance(error, OSError) and (not there or error.errno is not None):
            raise  # no more can be said, or heard
        note(f"dsv4: {visible(str(error))}")
        return
    except KeyboardInterrupt:
        shown.end()
        if not there:
            raise
        note("stopped; the last exchange is not kept")
        return
    shown.end()
    if dialogue.completion.finish_reason == "interrupted" and not there:
        raise KeyboardInterrupt
    _note_limit(dialogue.completion, dialogue.max_tokens, dialogue.context)


class _Shown:
    """A reply on stdout, piece by piece."""

    def __init__(self) -> None:
        plain = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
        self.dim = sys.stdout.isatty() and not plain
        self.reasoning, self.begun = False, False

    def add(self, piece: Piece) -> None:
        """Show one piece, told apart from another kind of piece before it."""
        if not piece.text:
            return
        reasoning, self.begun = isinstance(piece, Reasoning), True
        if reasoning != self.reasoning:
            self._turn()
        write(piece.text, dim=reasoning and self.dim)

    def end(self) -> None:
        """End the line, and the reasoning if no answer came."""
        if self.reasoning:
            self._turn()
        else:
            write("\n")

    def _turn(self) -> None:
        self.reasoning = not self.reasoning
        opened, closed = ("", "\n\n") if self.dim else ("<think>\n", "\n</think>\n\n")
        write(opened if self.reasoning else closed)


def _note_limit(ended: Ended, most: int, context: int | None) -> None:
    if ended.finish_reason != "length":
        return
    if ended.tokens is None or ended.tokens >= most:
        note(f"(cut after {most} tokens: --max-tokens allows more)")
    else:
        note("(cut at the end of the context" + (f", {context} tokens)" if context else ")"))


def _tell(text: str) -> None:
    """What is neither an answer nor an error: beside the answers only where people read both."""
    (say if sys.stdout.isatty() else note)(text)
