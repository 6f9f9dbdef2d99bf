"""`dsv4 generate` continues a text; `dsv4 chat` holds a dialogue, in a terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from rich.console import Console

from dsv4.chat import Chat, Piece
from dsv4.checkpoint.load import load, packaged
from dsv4.cli.errors import one_line_errors
from dsv4.generation import Reply, Sampling
from dsv4.interrupt import interruptible
from dsv4.model.transformer import Transformer
from dsv4.protocol.dialogue import EFFORTS, Effort
from dsv4.tokenizer import Tokenizer

Folder = Annotated[
    Path | None, typer.Argument(help="A checkpoint folder; default: the packaged nano model.")
]
MaxTokens = Annotated[int, typer.Option(help="The most tokens to generate.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that weigh this much.")]
TopK = Annotated[int, typer.Option(help="Keep this many of the likeliest tokens; 0: all.")]
MinP = Annotated[float, typer.Option(help="Drop tokens below this share of the likeliest.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]
Stop = Annotated[list[str] | None, typer.Option(help="End at this text; may be repeated.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]

HELP = "/reset forgets the dialogue · /effort none|high|max · /exit leaves · Ctrl-C stops a reply"


def generate(
    checkpoint: Folder = None,
    prompt: Annotated[str, typer.Option(help="The text to continue; - reads stdin.")] = "-",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Continue a text, as it comes from the model, without the chat protocol."""
    with one_line_errors():
        sampling = Sampling(temperature, top_p, top_k, min_p, seed, tuple(stop or ()), max_tokens)
        model, tokenizer = _load(checkpoint, dtype, threads)
        text = sys.stdin.read() if prompt == "-" else prompt
        ids = [model.config.bos_token_id, *tokenizer.encode(text)]
        with interruptible() as asked:
            reply = Reply(model, ids, tokenizer, sampling, interrupted=lambda: bool(asked))
            for piece in reply:
                _write(piece)
    _write("\n")


def chat(
    checkpoint: Folder = None,
    effort: Annotated[str, typer.Option(help="none, high or max.")] = "none",
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Chat with a model. Reads lines from stdin when that is not a terminal."""
    with one_line_errors():
        sampling = Sampling(temperature, top_p, top_k, min_p, seed, tuple(stop or ()), max_tokens)
        dialogue = Chat(*_load(checkpoint, dtype, threads), sampling)
        _set_effort(dialogue, effort)
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


def _load(folder: Path | None, dtype: str, threads: int | None) -> tuple[Transformer, Tokenizer]:
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise ValueError(f"dtype = {dtype!r}: choose float32 or bfloat16")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads = {threads}: must be at least 1")
        torch.set_num_threads(threads)
    model = load(folder, dtypes[dtype])
    return model, Tokenizer.load(packaged() if folder is None else folder)


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
            _set_effort(dialogue, rest[0] if rest else dialogue.effort)
            typer.echo(f"effort is {dialogue.effort}")
        except ValueError as error:
            typer.echo(str(error), err=True)
    else:
        typer.echo(HELP)
    return True


def _set_effort(dialogue: Chat, effort: str) -> None:
    if effort not in EFFORTS:
        raise ValueError(f"unknown effort {effort!r}: choose one of {', '.join(EFFORTS)}")
    dialogue.effort = cast(Effort, effort)


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
        style = "dim" if piece.kind == "reasoning" else None
        console.print(piece.text, end="", style=style, soft_wrap=True)

    return show


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
