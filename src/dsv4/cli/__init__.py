"""The command `dsv4`. Each module of this folder parses, calls and prints one group of commands.

What needs torch is imported inside the commands, so that help and the protocol answer at once.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from dsv4.cli import chat, checkpoint, convert, cost, data, eval, protocol, runs, serve, train
from dsv4.cli.errors import Command, Commands
from dsv4.cli.streams import say

app = typer.Typer(
    name="dsv4",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,  # brackets in help and errors are text
    pretty_exceptions_enable=False,
)
app.command(cls=Command, short_help="Count a checkpoint's tensors, bytes and parameters.")(
    checkpoint.inspect
)
app.command(cls=Command, short_help="Count what a model costs: FLOPs, bytes, time, money.")(
    cost.cost
)
app.command(cls=Command, short_help="Write a checkpoint of random weights.")(checkpoint.init)
app.command(cls=Command, short_help="Write a checkpoint in another form.")(convert.convert)
app.command(cls=Command, short_help="Continue a text, without the chat protocol.")(chat.generate)
app.command(cls=Command, short_help="Chat with a model.")(chat.chat)
app.command(cls=Command, short_help="Serve a model to OpenAI's and Anthropic's clients.")(
    serve.serve
)
app.command(cls=Command, short_help="Train a model: by a recipe, by flags, or for some minutes.")(
    train.train
)
app.command("export", cls=Command, short_help="Write a run's newest state as a checkpoint.")(
    runs.export_command
)
app.command("plan", cls=Command, short_help="Print what a run would be, on one machine or many.")(
    runs.plan_command
)
app.command("plot", cls=Command, short_help="Draw the curves of runs.")(runs.plot_command)
app.command("eval", cls=Command, short_help="Evaluate a model: the release's tables, and more.")(
    eval.evaluate
)
app.add_typer(data.data, name="data", short_help="Fetch open text; make token files of text.")
app.command(cls=Command, short_help="Print a conversation as the model's prompt.")(protocol.encode)
app.command(cls=Command, short_help="Print a completion as a message.")(protocol.parse)


@app.callback()
def dsv4(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    """DeepSeek-V4: inspect, initialise, convert, train, evaluate, serve and chat with a model;
    encode and parse prompts.
    """
    if show_version:
        say(f"dsv4 {version('dsv4')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())


def main() -> None:
    """Entry point of the console script."""
    # torch's threads else spin between its operators, on processors that native ones could use
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
