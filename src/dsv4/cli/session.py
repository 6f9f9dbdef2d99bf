"""What `dsv4 generate` and `dsv4 chat` do with a loaded model: stream text, obey slash commands.

Reasoning is dim where the terminal can show it so, and between <think> and </think> elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dsv4.chat import Chat, Piece
from dsv4.cli.streams import note, say, write
from dsv4.cli.terminal import interactive, piped_lines, typed_lines
from dsv4.generation import Completion, Reply
from dsv4.interrupt import interruptible
from dsv4.model.transformer import Transformer
from dsv4.protocol.deltas import Reasoning
from dsv4.protocol.effort import EFFORT_WORDS, resolve_effort
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer

HELP = f"""\
/reset forgets the dialogue; /exit or Ctrl-D leaves; Ctrl-C stops a reply
/effort {"|".join(EFFORT_WORDS)}
Alt-Enter begins another line; // before a command sends it to the model"""
COMMANDS = ("reset", "effort", "help", "exit", "quit")


def continue_text(
    model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int], sampling: Sampling
) -> None:
    """Print what comes after the prompt's ids, until EOS, a stop string or a limit.

    Raises KeyboardInterrupt after Ctrl-C, when what was said is printed.
    """
    with interruptible() as asked:
        reply = Reply(model, prompt, tokenizer, sampling, interrupted=lambda: bool(asked))
        for piece in reply:
            write(piece)
    write("\n")
    if reply.completion.finish_reason == "interrupted":
        raise KeyboardInterrupt
    if len(reply.completion.ids) < sampling.max_tokens:
        _note_limit(reply.completion, model, sampling)


def converse(dialogue: Chat) -> None:
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


def _obey(dialogue: Chat, command: Sequence[str]) -> bool:
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


def _set_effort(dialogue: Chat, effort: str) -> None:
    try:
        resolve_effort(effort, dialogue.revision)
    except ValueError as error:
        note(f"dsv4: {error}")
    else:
        dialogue.effort = effort
        _tell(f"effort is {effort}")


def _answer(dialogue: Chat, text: str, there: bool) -> None:
    """Print the reply as it comes; Ctrl-C ends it, and what was said stays in the dialogue."""
    shown = _Shown()
    try:
        with interruptible() as asked:
            for piece in dialogue.ask(text, interrupted=lambda: bool(asked)):
                shown.add(piece)
    except ValueError as error:
        if shown.begun:
            shown.end()
        note(f"dsv4: {error}")
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
    _note_limit(dialogue.completion, dialogue.model, dialogue.sampling)


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


def _note_limit(completion: Completion, model: Transformer, sampling: Sampling) -> None:
    if completion.finish_reason != "length":
        return
    if len(completion.ids) >= sampling.max_tokens:
        note(f"(cut after {sampling.max_tokens} tokens: --max-tokens allows more)")
    else:
        context = model.config.max_position_embeddings
        note(f"(cut at the end of the context, {context} tokens)")


def _tell(text: str) -> None:
    """What is neither an answer nor an error: beside the answers only where people read both."""
    (say if sys.stdout.isatty() else note)(text)
