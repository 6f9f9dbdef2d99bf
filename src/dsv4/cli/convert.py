"""`dsv4 convert` writes a checkpoint in another form: FP4, FP8 or BF16, in other shards."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.loading import Name, checkpoint_folder
from dsv4.cli.sizes import parse_size
from dsv4.cli.streams import note, say

if TYPE_CHECKING:
    from dsv4.checkpoint.convert import Conversion


class Experts(StrEnum):
    """Forms of the routed experts."""

    FP4 = "fp4"
    FP8 = "fp8"
    BF16 = "bf16"


class Dense(StrEnum):
    """Forms of the linears outside the routed experts."""

    FP8 = "fp8"
    BF16 = "bf16"


def convert(
    source: Name,
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    experts: Annotated[
        Experts | None, typer.Option(help="Form of the routed experts; default: as stored.")
    ] = None,
    dense: Annotated[
        Dense | None, typer.Option(help="Form of the other linears; default: as stored.")
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(help="Largest shard, such as 5GB or 500MiB; default: one for each layer."),
    ] = None,
    allow_rounding: Annotated[
        bool, typer.Option("--allow-rounding", help="Round where the new form cannot hold a value.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint.")] = False,
) -> None:
    """Write a checkpoint in another form: exactly, or with --allow-rounding.

    Needs the memory of a few copies of one tensor. What was interrupted goes on when the same
    command is given again. Shards are read back and compared.
    """
    from dsv4.checkpoint.convert import convert as convert_checkpoint
    from dsv4.checkpoint.convert import workspace_of

    try:
        done = convert_checkpoint(
            checkpoint_folder(source),
            out,
            experts=experts,
            dense=dense,
            shard_size=None if shard_size is None else parse_size(shard_size, "--shard-size"),
            allow_rounding=allow_rounding,
            overwrite=overwrite,
        )
    except KeyboardInterrupt:
        kept = workspace_of(out)
        kept_text = f"; finished shards are in {kept}; the same command goes on"
        note(f"dsv4: interrupted{kept_text if kept.exists() else ''}")
        raise typer.Exit(130) from None
    _print(out, done)


def _print(out: Path, done: Conversion) -> None:
    from dsv4.checkpoint.forms import form_of
    from dsv4.checkpoint.layout import Role

    experts, dense = (form_of(done.config, role) for role in (Role.EXPERT, Role.DENSE))
    form = f"experts {experts}, dense {dense}"
    say(f"{out}: {form}, {done.shards} shards, {done.nbytes:,} bytes")
    if done.rounded:
        counts = ", ".join(f"{count:,} {unit}" for unit, count in sorted(done.rounded.items()))
        say(f"rounded: {counts}")
    else:
        say("every value is kept")
    if done.resumed:
        say(f"{done.resumed} shards were finished before")
    if done.damaged:
        say(f"damaged since they were finished, written again: {', '.join(done.damaged)}")
    if done.left_out:
        say(f"not copied: {', '.join(done.left_out)}")
