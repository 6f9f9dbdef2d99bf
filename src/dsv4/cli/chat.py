"""`dsv4 generate` continues a text; `dsv4 chat` holds a dialogue, in a terminal or a pipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dsv4.cli.errors import one_line_errors
from dsv4.cli.options import Threads

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
Dtype = Annotated[
    str | None,
    typer.Option(help="float32 or bfloat16; default: a quantised checkpoint stays packed."),
]
Mode = Annotated[
    str | None,
    typer.Option(help="How a packed model computes: fast, or exact as the release rounds."),
]
MaxResident = Annotated[
    str | None,
    typer.Option(
        help="Keep the process's memory near this size, such as 4GiB: experts of a packed model "
        "are read from the files when they are needed."
    ),
]
Copy = Annotated[
    bool, typer.Option("--copy", help="Copy a packed model's files into memory: faster decoding.")
]


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
    dtype: Dtype = None,
    mode: Mode = None,
    max_resident: MaxResident = None,
    copy: Copy = False,
    threads: Threads = None,
) -> None:
    """Continue a text, as it comes from the model, without the chat protocol."""
    from dsv4.cli import session
    from dsv4.sampling import Sampling

    with one_line_errors():
        sampling = Sampling(temperature, top_p, top_k, min_p, seed, tuple(stop or ()), max_tokens)
        model, tokenizer = session.load_pair(checkpoint, dtype, mode, max_resident, copy, threads)
        text = sys.stdin.read() if prompt == "-" else prompt
        session.continue_text(model, tokenizer, text, sampling)


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
    dtype: Dtype = None,
    mode: Mode = None,
    max_resident: MaxResident = None,
    copy: Copy = False,
    threads: Threads = None,
) -> None:
    """Chat with a model. Reads lines from stdin when that is not a terminal."""
    from dsv4.chat import Chat
    from dsv4.cli import session
    from dsv4.sampling import Sampling

    with one_line_errors():
        sampling = Sampling(temperature, top_p, top_k, min_p, seed, tuple(stop or ()), max_tokens)
        dialogue = Chat(
            *session.load_pair(checkpoint, dtype, mode, max_resident, copy, threads), sampling
        )
        session.set_effort(dialogue, effort)
    session.converse(dialogue)
