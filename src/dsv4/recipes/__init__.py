"""Complete named runs. A recipe is a module with a value RECIPE, named or a file."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path
from types import ModuleType

from dsv4.config.presets import PRESETS
from dsv4.train.ranges import close, nearest
from dsv4.train.recipe import Recipe

NAMES = ("nano", "flash", "pro")
ALIKE = 0.75  # from here on a word is taken for a name that was mistyped


def is_recipe(word: str) -> bool:
    """Whether a word names a recipe: one of NAMES, or a file NAME.py."""
    return word in NAMES or word.endswith(".py")


def check_folder_meant(word: str) -> None:
    """Raises ValueError where the name of a folder that is not there seems to mean a recipe."""
    if Path(word).exists():
        return
    made = f"(for a new folder of that name: mkdir {word})"
    if word in PRESETS:
        raise ValueError(f"{word} is a preset, no recipe: dsv4 train FOLDER --preset {word} {made}")
    beside = f"{word}.py" if Path(f"{word}.py").is_file() else None
    if meant := beside or close(word, NAMES, ALIKE):
        raise ValueError(
            f"there is neither a recipe nor a folder {word}: did you mean {meant}? {made}"
        )


def find(word: str) -> Recipe:
    """The recipe of a name or of a file, which is run. Raises ValueError, FileNotFoundError."""
    if word in NAMES:
        module = importlib.import_module(f"dsv4.recipes.{word}")
    elif word.endswith(".py"):
        module = _run(Path(word))
    else:
        near = nearest(word, NAMES)
        raise ValueError(
            f"there is no recipe {word!r}: {', '.join(NAMES)}, or a file NAME.py{near}"
        )
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{word}: must hold RECIPE = Recipe(…)")
    return recipe


def _run(file: Path) -> ModuleType:
    if not file.is_file():
        beside = [str(other) for other in file.parent.glob("*.py")] if file.parent.is_dir() else []
        near = nearest(str(file), [*NAMES, *beside])
        raise FileNotFoundError(
            f"there is no recipe {file}: {', '.join(NAMES)}, or a file NAME.py{near}"
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        frames = traceback.extract_tb(error.__traceback__)
        line = next((one.lineno for one in reversed(frames) if one.filename == spec.origin), "?")
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, SyntaxError) and error.filename == spec.origin:
            line, what = error.lineno, error.msg
        raise ValueError(f"{file}, line {line}: {what}") from error
    return module
