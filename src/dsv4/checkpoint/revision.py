"""Which effort texts a checkpoint was trained with: the revision that its prompts are written in.

    a flag  >  encoding/*.py beside it  >  effort_revision in config.json  >  its draft
    (a DSpark block draft among the tensors: 2026-07, none: 2026-04)

An open `Checkpoint`, and so a loaded model, has the answer in `config.effort_revision`. What dsv4
writes keeps it: in config.json, where the tensors alone would tell another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from dsv4.checkpoint.draft import holds_dspark
from dsv4.checkpoint.encoder import encoder_revision
from dsv4.checkpoint.errors import CheckpointError
from dsv4.config import EFFORT_REVISIONS, Config
from dsv4.protocol.constants import Revision


def effort_revision(source: str | os.PathLike[str] | Config, flag: str | None = None) -> Revision:
    """The revision of the effort texts of a checkpoint folder, or of a loaded model's config.

    `flag` is what the user asked for, and wins. Raises: CheckpointError for an unknown one or a
    folder that is no checkpoint.
    """
    from dsv4.checkpoint.reader import Checkpoint  # which asks this module in turn

    if flag is not None:
        return known(flag)
    config = source if isinstance(source, Config) else Checkpoint(source).config
    return cast(Revision, config.effort_revision or of_draft(config.is_dspark))


def known(flag: str) -> Revision:
    """The revision that a user asked for. Raises CheckpointError for one that there is not."""
    if flag not in EFFORT_REVISIONS:
        choice = " or ".join(EFFORT_REVISIONS)
        raise CheckpointError(f"the revision {flag!r} is not known: choose {choice}")
    return cast(Revision, flag)


def decide(folder: Path, config: Config, tensors: Iterable[str], flag: str | None = None) -> Config:
    """`config` with the revision that the checkpoint in `folder` has; a flag asks no file."""
    if flag is None:
        found = encoder_revision(folder) or config.effort_revision or of_tensors(tensors)
    else:
        found = known(flag)
    return config.replace(effort_revision=found)


def as_written(config: Config, tensors: Iterable[str]) -> Config:
    """`config` for a folder of these tensors: it names the revision only if they do not tell it."""
    told = config.effort_revision in (None, of_tensors(tensors))
    return config.replace(effort_revision=None) if told else config


def of_tensors(names: Iterable[str]) -> Revision:
    """2026-07 where there is a DSpark draft, 2026-04 otherwise."""
    return of_draft(holds_dspark(names))


def of_draft(is_dspark: bool) -> Revision:
    """The same of a draft that is known."""
    return "2026-07" if is_dspark else "2026-04"
