"""What `dsv4 generate` and `dsv4 chat` do with a loaded model: stream text, obey slash commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import typer
from rich.console import Console

from dsv4.chat import Chat, Piece
from dsv4.checkpoint.load import load, packaged
from dsv4.cli.options import set_threads
from dsv4.cli.sizes import parse_size
from dsv4.generation import Reply
from dsv4.interrupt import interruptible
from dsv4.model.transformer import Transformer
from dsv4.protocol.deltas import Reasoning
from dsv4.protocol.effort import resolve_effort
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer

HELP = "/reset forgets the dialogue · /effort none|high|max · /exit leaves · Ctrl-C stops a reply"


def load_pair(
    folder: Path | None,
    dtype: str | None,
    mode: str | None,
    max_resident: str | None,
    copy: bool,
    threads: int | None,
) -> tuple[Transformer, Tokenizer]:
    """The model of a folder, or the packaged one, and its tokenizer. Raises ValueError."""
    dtypes = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise ValueError(f"dtype = {dtype!r}: choose float32 or bfloat16")
    set_threads(threads)
    cap = None if max_resident is None else parse_size(max_resident, "--max-resident")
    model = load(folder, dtypes[dtype], mode=mode, max_resident=cap, copy=copy)
    tokenizer = Tokenizer.load(packaged() if folder is None else folder)
    tokenizer.check_fits(model.config.vocab_size)
    return model, tokenizer


def continue_text(model: Transformer, tokenizer: Tokenizer, text: str, sampling: Sampling) -> None:
    """Print what comes after `text`, until EOS, a stop string or Ctrl-C."""
    ids = [model.config.bos_token_id, *tokenizer.encode(text)]
    with interruptible() as asked:
        for piece in Reply(model, ids, tokenizer, sampling, interrupted=lambda: bool(asked)):
            _write(piece)
    _write("\n")


def converse(dialogue: Chat) -> None:
    """Answer line after line, until the user leaves."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    show = _styled() if terminal else _plain
    if terminal:
        typer.echo(HELP)
    for line in _lines(terminal):
        if line.startswith("/"):
            if not _command(dialogue, line):
                return
        elif line:
            _answer(dialogue, line, show)


def set_effort(dialogue: Chat, effort: str) -> None:
    """Raises ValueError for an unknown effort."""
    resolve_effort(effort)
    dialogue.effort = effort


def _lines(terminal: bool) -> Iterator[str]:
    """What the user types, until Ctrl-D, or Ctrl-C at an empty prompt."""
    while True:
        try:
            line = input("> " if terminal else "")
        except (EOFError, KeyboardInterrupt):
            if terminal:
                _write("\n")
            return
        yield line.strip()


def _command(dialogue: Chat, line: str) -> bool:
    """Obey a line that begins with a slash; returns whether to go on."""
    name, *rest = line[1:].split()
    if name in ("exit", "quit"):
        return False
    if name == "reset":
        dialogue.reset()
        typer.echo("the dialogue is forgotten")
    elif name == "effort":
        try:
            set_effort(dialogue, rest[0] if rest else dialogue.effort)
            typer.echo(f"effort is {dialogue.effort}")
        except ValueError as error:
            typer.echo(str(error), err=True)
    else:
        typer.echo(HELP)
    return True


def _answer(dialogue: Chat, line: str, show: Callable[[Piece], None]) -> None:
    """Print the reply as it comes; Ctrl-C ends it, and what was said stays in the dialogue."""
    try:
        with interruptible() as asked:
            for piece in dialogue.ask(line, interrupted=lambda: bool(asked)):
                show(piece)
    except ValueError as error:
        typer.echo(f"dsv4: {error}", err=True)
    except KeyboardInterrupt:
        typer.echo("stopped; the last exchange is not kept", err=True)
    _write("\n")


def _plain(piece: Piece) -> None:
    _write(piece.text)


def _styled() -> Callable[[Piece], None]:
    """Reasoning dim, content plain."""
    console = Console(highlight=False, markup=False)

    def show(piece: Piece) -> None:
        style = "dim" if isinstance(piece, Reasoning) else None
        console.print(piece.text, end="", style=style, soft_wrap=True)

    return show


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
