"""How a command ends: 0; 2 after one line on stderr; 130 after Ctrl-C; 141 where a pipe closed."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

from dsv4.cli.streams import note, prepare, say, visible, write

WRONG, INTERRUPTED, PIPE_CLOSED = 2, 130, 141


class _Help:
    """Help is written as every result is, so that a full disk has the same words."""

    def get_help_option(self, context: Any) -> TyperOption | None:
        """The option --help of a command."""
        option: TyperOption | None = super().get_help_option(context)  # type: ignore[misc]
        if option is not None:
            option.callback = _show_help
        return option


class Command(_Help, TyperCommand):
    """One command."""


class Commands(_Help, TyperGroup):
    """A group whose every error, of usage or of input, is one line."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any
    ) -> Any:
        """Run the command that `args` name, and exit."""
        words = list(sys.argv[1:] if args is None else args)

        def command() -> None:
            prepare()
            with (
                _warnings_in_one_line(),
                self.make_context(prog_name or "dsv4", words, **extra) as context,
            ):
                self.invoke(context)

        sys.exit(exit_code(command))


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        note(f"dsv4: {visible(str(message))}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _show_help(context: Any, _: Any, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        say(context.get_help())
        context.exit()


def exit_code(command: Callable[[], None]) -> int:
    """Run a command; what a user can mend is told in one line, anything else is raised."""
    try:
        return _told(command) or _told(lambda: write(""))
    finally:
        _silence_what_failed()


def _told(command: Callable[[], None]) -> int:
    try:
        command()
    except typer.Exit as ended:
        return ended.exit_code
    except BrokenPipeError:  # whoever read it has seen enough
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return _tell("interrupted", INTERRUPTED)
    except TyperException as error:
        return _tell(_usage(error), WRONG)
    except RecursionError:
        return _tell("the input is nested too deeply", WRONG)
    except MemoryError:
        return _tell("memory is exhausted", WRONG)
    except OSError as error:
        return _tell(_system(error), WRONG)
    except ValueError as error:
        return _tell(str(error), WRONG)
    return 0


def _tell(message: str, code: int) -> int:
    with suppress(OSError):
        note(f"dsv4: {visible(message)}")
    return code


def _usage(error: TyperException) -> str:
    """`No such option: --sede` → `no such option: --sede; see dsv4 chat --help`."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    where = "dsv4" if context is None else context.command_path
    return f"{message[:1].lower()}{message[1:]}; see {where} --help"


def _system(error: OSError) -> str:
    if error.strerror is None or error.filename is None:
        return error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _silence_what_failed() -> None:
    """What a full disk or a closed pipe did not take must not fail again when Python exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
