"""A folder of prepared data: a tokenizer, a folder of token files for each source, mixture.json.

mixture.json says weight, epochs and least document of each source; it is written last, and is there
to be edited.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsv4.atomic import replacing
from dsv4.data.errors import DataError
from dsv4.data.mixture import Source
from dsv4.data.tokens import REMEDY, TokenFile
from dsv4.files import read_json

MIXTURE_FILE, LARGEST = "mixture.json", 1 << 20
LIMITS = ("weight", "epochs", "least")


def write_mixture(folder: Path, limits: Mapping[str, Mapping[str, float | None]]) -> None:
    """Write each source's limits (None: weighed by its tokens, no end, every document)."""
    rows = {name: {limit: own.get(limit) for limit in LIMITS} for name, own in limits.items()}
    with replacing(folder / MIXTURE_FILE) as stream:
        stream.write((json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())


def open_sources(folder: Path, part: str = "train", *, verify: bool = True) -> list[Source]:
    """The sources of a folder that hold something of a part ("train" or "validation"); with
    `verify` every id is read and compared with its sum.

    Raises: DataError for what is damaged.
    """
    sources = []
    for name, own in read_limits(folder).items():
        file = TokenFile(folder / name, part)
        if verify:
            file.verify()
        if file.header.tokens:
            sources.append(Source(name, file, **own))
    if not sources:
        raise DataError(f"{folder} holds no tokens for {part}: give more text")
    return sources


def read_limits(folder: Path) -> dict[str, dict[str, Any]]:
    """What mixture.json says of each source. Raises DataError."""
    file = folder / MIXTURE_FILE
    if not folder.is_dir():
        raise DataError(f"there is no folder of text {folder}: `dsv4 data build` makes one")
    try:
        rows = read_json(file, LARGEST)
        if not isinstance(rows, dict) or not all(_is_limits(own) for own in rows.values()):
            raise ValueError(
                "must hold, of each source, weight, epochs and least: numbers above 0, or null"
            )
        return rows
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be used ({error}): {REMEDY.format(folder)}") from error


def _is_limits(own: Any) -> bool:
    return (
        isinstance(own, dict)
        and set(own) <= set(LIMITS)
        and all(v is None or (type(v) in (int, float) and 0 < v < 1e300) for v in own.values())
    )
