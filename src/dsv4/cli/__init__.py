"""The command `dsv4`. Each module of this folder parses, calls and prints one group of commands.

What needs torch is imported inside the commands, so that help and the protocol answer at once.
"""

from __future__ import annotations

import typer

from dsv4.cli import chat, checkpoint, convert, protocol, train

app = typer.Typer(
    name="dsv4",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DeepSeek-V4: inspect, initialise, convert, train and chat with a model; encode and parse "
    "prompts.",
)
app.command()(checkpoint.inspect)
app.command()(checkpoint.init)
app.command()(convert.convert)
app.command()(chat.generate)
app.command()(chat.chat)
app.command()(train.train)
app.command()(protocol.encode)
app.command()(protocol.parse)


def main() -> None:
    """Entry point of the console script."""
    app()
