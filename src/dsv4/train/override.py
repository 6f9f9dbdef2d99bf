"""`key=value` on the command line → a changed recipe: typed, checked, and told what was meant.

Keys are fields of Recipe, with dots into what they hold: lr, stages.1.tokens, stability.window,
config.hidden_size. Of several stages or texts, `stages.tokens` means every one; `text=FOLDER` (or
several, with commas) is all the text.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from dsv4.config import Config
from dsv4.train.ranges import close, nearest
from dsv4.train.recipe import Recipe, Stability, Stage, Text

NOTHING = ("none", "null")
FLAGS = {"preset": "model", "steps": "tokens", "batch": "stages.batch_tokens"}  # of dsv4 train
SWITCH = {"true": True, "yes": True, "on": True, "1": True}
SWITCH |= {"false": False, "no": False, "off": False, "0": False}


def override(recipe: Recipe, words: Iterable[str]) -> Recipe:
    """The recipe with each `key=value` of `words` put in. Raises ValueError."""
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r}: must be key=value, such as lr=1e-3")
        if not value.strip():
            raise ValueError(f"{key} has no value: write one behind {key}=")
        recipe = _named(recipe, key, value)
    return recipe


def _named(recipe: Recipe, key: str, value: str) -> Recipe:
    """The recipe with a value put in; what is wrong with it is said of the whole key."""
    path = key.split(".")
    try:
        return _put(recipe, path, value, key)
    except ValueError as error:
        said, name = str(error), path[-1].replace("-", "_")
        if said.startswith(f"{name} = "):
            raise ValueError(f"{key}{said.removeprefix(name)}") from None
        raise


def _put(own: Any, path: list[str], text: str, key: str) -> Any:
    """`own` with the value at `path` replaced."""
    name, rest = path[0].replace("-", "_"), path[1:]
    kinds = typing.get_type_hints(type(own))
    if name not in kinds:
        raise ValueError(f"{key}: there is no such setting{_meant(name, own, key)}")
    value, kind = getattr(own, name), kinds[name]
    if name == "text" and not rest:
        folders = [] if text.lower() in NOTHING else [one for one in text.split(",") if one]
        changed: Any = tuple(Text(folder=folder) for folder in folders)
    elif isinstance(value, Mapping):
        changed = {**value, **_field(rest, text, key)}
    elif isinstance(value, tuple) and dataclasses.is_dataclass(typing.get_args(kind)[0]):
        changed = _put_each(value, rest, text, key)
    elif dataclasses.is_dataclass(value):
        if not rest:
            names = ", ".join(f"{key}.{each.name}" for each in dataclasses.fields(value))
            raise ValueError(f"{key}: name one of its settings: {names}")
        changed = _put(value, rest, text, key)
    elif rest:
        raise ValueError(f"{key}: {name} holds nothing named {'.'.join(rest)}")
    else:
        changed = _value(text, kind, name)
    return dataclasses.replace(own, **{name: changed})


def _put_each(values: tuple[Any, ...], path: list[str], text: str, key: str) -> tuple[Any, ...]:
    """Values with one changed that a number names, or all of them."""
    last = len(values) - 1
    if path and not values:
        raise ValueError(f"{key}: the recipe has none of them: give the whole, such as text=FOLDER")
    if path and path[0].isdigit():
        number, path = int(path[0]), path[1:]
        if number > last:
            raise ValueError(f"{key}: the recipe has {last + 1} of them, counted from 0")
        chosen = [number]
    else:
        chosen = list(range(len(values)))
    if not path or not chosen:
        raise ValueError(f"{key}: name one of its settings, such as stages.0.tokens")
    return tuple(
        _put(each, path, text, key) if number in chosen else each
        for number, each in enumerate(values)
    )


def _field(path: list[str], text: str, key: str) -> dict[str, Any]:
    """A field of the model's config, whose own rules check the value."""
    names = [field.name for field in dataclasses.fields(Config)]
    if len(path) != 1 or path[0] not in names:
        near = nearest(".".join(path), names, "config.")
        raise ValueError(f"{key}: a config has no such field{near}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return {path[0]: value}


def _value(text: str, kind: Any, name: str) -> Any:
    """`text` as a `kind`. Raises ValueError."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in kinds and text.lower() in NOTHING:
        return None
    kind = next(each for each in kinds if each is not type(None))
    if kind is bool:
        if text.lower() not in SWITCH:
            raise ValueError(f"{name} = {text!r}: must be true or false")
        return SWITCH[text.lower()]
    if kind is int:
        return _whole(text, name)
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{name} = {text!r}: must be a number") from None
    if typing.get_origin(kind) is tuple:
        if text.lower() in NOTHING:
            return ()
        return tuple(each for each in text.split(",") if each)
    return text


def _whole(text: str, name: str) -> int:
    """12, 12_000 or 2e6."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        if (number := float(text)).is_integer() and abs(number) < 2**63:
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{name} = {text!r}: must be a whole number")


def _meant(name: str, own: Any, key: str) -> str:
    """`: did you mean stages.tokens?`: a setting beside the unknown one, or further inside."""
    before = key.rpartition(".")[0] if "." in key and not isinstance(own, Recipe) else ""
    known = {each.name: each.name for each in dataclasses.fields(own)}
    if isinstance(own, Recipe):
        inside = {"config": Config, "text": Text, "stability": Stability, "stages": Stage}
        further = {
            each.name: f"{part}.{each.name}"
            for part, kind in inside.items()
            for each in dataclasses.fields(kind)
        }
        known = further | FLAGS | known
    found = close(name, known)
    return f": did you mean {before}{'.' * bool(before)}{known[found]}?" if found else ""
