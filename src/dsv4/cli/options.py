"""Options that several commands share, checked alike."""

from __future__ import annotations

import os
from typing import Annotated

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


def leave_out(option: str, does: str, given: dict[str, object]) -> None:
    """Raises ValueError for options (`dtype` for --dtype) that make no sense beside another."""
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if names:
        raise ValueError(f"{option} {does}: leave out {' and '.join(names)}")


def exclude(**given: object) -> None:
    """Raises ValueError where two of the options (`ids=…` for --ids) are given at once."""
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} exclude each other: give one of them")
