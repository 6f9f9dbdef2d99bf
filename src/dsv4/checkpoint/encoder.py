"""Which revision of the effort texts the encoder beside a checkpoint speaks, from its source text.

    2026-07   a table of texts for low, high and max, or the default effort low, or the last text
    2026-04   a table or a constant with the text for max alone

The source is parsed and its module-level constants are folded; it is never imported or run.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from dsv4.checkpoint.errors import CheckpointError
from dsv4.files import FileError, read_text
from dsv4.protocol.constants import EFFORT_PREFIXES, Revision

FOLDER, FILE = "encoding", "encoding_dsv4.py"
LARGEST = 1 << 20  # bytes; the release's file has 29,001
_FIRST, _LAST = (EFFORT_PREFIXES["2026-07"][word] for word in ("high", "max"))
_NAME = "EFFORT"  # what the names of the constants have in common


def encoder_revision(folder: Path) -> Revision | None:
    """What the Python files of `folder`/encoding say, the release's own first; None: nothing.

    Raises: CheckpointError for a file that cannot be read as Python.
    """
    files = sorted((folder / FOLDER).glob("*.py"), key=lambda file: (file.name != FILE, file.name))
    for file in files:
        try:
            source = read_text(file, LARGEST)
        except (FileError, OSError) as error:
            raise CheckpointError(f"the encoder cannot be read: {error}") from error
        found = source_revision(source, file)
        if found is not None:
            return found
    return None


def source_revision(source: str, file: Path) -> Revision | None:
    """The revision that a module's constants tell, None if it has none of them."""
    try:
        constants = _constants(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(
            f"{file} is no Python source, so the effort texts of this model are not known: "
            f"repair or remove it, or name their revision ({type(error).__name__})"
        ) from error
    efforts = {name: value for name, value in constants.items() if _NAME in name.upper()}
    tables = [value for value in efforts.values() if isinstance(value, dict)]
    texts = [text for text in (*efforts.values(), *_texts(tables)) if isinstance(text, str)]
    if any(text.strip() == _LAST.strip() for text in texts):
        return "2026-07"
    if any(table.get("high") == "" and "max" in table for table in tables):
        return "2026-04"  # efforts of three names, but the texts of April
    default = any(value == "low" for name, value in efforts.items() if "DEFAULT" in name.upper())
    if default or any(table.keys() >= {"low", "high", "max"} for table in tables):
        return "2026-07"
    known = any(text.strip() == _FIRST.strip() for text in texts)
    return "2026-04" if known or any(name.upper().endswith("MAX") for name in efforts) else None


def _texts(tables: list[dict[str, Any]]) -> list[Any]:
    return [text for table in tables for text in table.values()]


def _constants(module: ast.Module) -> dict[str, Any]:
    """Name → value of each module-level constant made of texts, tables of texts, and other ones."""
    found: dict[str, Any] = {}
    for node in module.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name):
                found[target.id] = _fold(value, found)
    return found


def _fold(node: ast.expr, known: dict[str, Any]) -> Any:
    """The value of a constant expression; None for everything else."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return known.get(name)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            parts = _fold(left, known), _fold(right, known)
            return "".join(parts) if all(isinstance(part, str) for part in parts) else None
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {_key(key, known): _fold(value, known) for key, value in pairs}
    return None


def _key(node: ast.expr | None, known: dict[str, Any]) -> Any:
    key = None if node is None else _fold(node, known)
    return key if isinstance(key, str) else None
