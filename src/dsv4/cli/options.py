"""Options that several commands share, checked alike."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from dsv4.protocol.constants import EFFORT_PREFIXES

Threads = Annotated[int | None, typer.Option(help="CPU threads.", show_default="one for each core")]
Revision = Annotated[
    str | None,
    typer.Option(
        help=f"Of the effort texts: {' or '.join(EFFORT_PREFIXES)}.",
        show_default="the checkpoint's own",
    ),
]
WeightsSeed = Annotated[
    int, typer.Option(help="The same seed gives the same weights.", min=0, max=2**32 - 1)
]
T = TypeVar("T")
THREADS_A_CPU = 4  # more than these only get in each other's way


def set_threads(threads: int | None) -> None:
    """Compute with that many threads. Raises ValueError for more than this machine can use."""
    import torch

    if threads is None:
        return
    cpus = os.cpu_count() or 1
    if not 1 <= threads <= THREADS_A_CPU * cpus:
        raise ValueError(
            f"threads = {threads}: must be between 1 and {THREADS_A_CPU * cpus}, as this machine "
            f"has {cpus} CPU{'s' * (cpus > 1)}"
        )
    torch.set_num_threads(threads)


def told_by(kind: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """A command of one argument, whose options are the fields of a dataclass: a class's own come
    before those of its bases. What has no default must be given.
    """
    hints = get_type_hints(kind, include_extras=True)
    every = [name for one in kind.__mro__ for name in vars(one).get("__annotations__", ())]
    names = reversed(dict.fromkeys(reversed(every)))  # another default moves no option
    defaults = {
        field.name: inspect.Parameter.empty if field.default is MISSING else field.default
        for field in fields(kind)  # type: ignore[arg-type]
    }

    def dress(command: Callable[[T], None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            command(kind(**given))

        word = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(name, word, default=defaults[name], annotation=hints[name])
            for name in names
        ]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = hints
        return called

    return dress


def leave_out(option: str, does: str, given: dict[str, object]) -> None:
    """Raises ValueError for options (`dtype` for --dtype) that make no sense beside another."""
    names = [
        f"--{name.replace('_', '-')}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    if names:
        raise ValueError(f"{option} {does}: leave out {' and '.join(names)}")


def exclude(**given: object) -> None:
    """Raises ValueError where two of the options (`ids=…` for --ids) are given at once."""
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} exclude each other: give one of them")
