"""The state of a run in one file: all that its next step needs, and what the run was told.

The file is replaced only by a whole one. Every byte of it is summed before it is unpickled, and
unpickling makes tensors and plain containers only.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsv4.atomic import replacing
from dsv4.config import Config
from dsv4.model.transformer import Transformer
from dsv4.train.recipe import FREE, Recipe, completed
from dsv4.train.schedule import Position
from dsv4.train.whole import WHOLE, Whole

FIELDS: dict[str, type] = {
    "position": dict,
    "config": dict,
    "recipe": dict,
    "model": dict,
    "optimizers": list,
    "ahead": dict,  # where the texts are read, and experts chosen before
    "spikes": dict,  # what the detector has seen
    "history": dict,  # skipped steps, rollbacks, seconds
    "rng": Tensor,
}


TENSORS = ("model", "optimizers")
PARTS = {  # what these hold; of `history` more or less than that is another version's
    "position": tuple(one.name for one in fields(Position)),
    "ahead": ("feed", "experts", "until", "skipped"),
    "spikes": ("losses", "running"),
}
MOST_SAID = 6  # of settings that differ
FOREIGN = "was written by another version of dsv4"
REMEDY = "go on with that version, or train into another folder"


@dataclass
class History:
    """What happened to a run beside its steps."""

    skipped: int = 0  # steps that changed nothing
    rollbacks: int = 0
    seconds: float = 0.0  # in steps
    spent: float = 0.0  # of the run's minutes, in seconds
    spiked: list[int] = field(default_factory=list)  # steps from which it went back


class TrainingError(ValueError):
    """Training cannot go on: the message says why, and what is saved."""


class RemovedError(TrainingError):
    """A state that a run at work removed, or wrote anew, while it was read."""

    def __init__(self, file: Path):
        super().__init__(f"{file} was removed or written anew while it was read")


def save_state(file: Path, state: dict[str, Any]) -> None:
    """Write the fields of FIELDS. Raises WriteError; then the file is what it was."""
    with replacing(file) as stream:
        try:
            torch.save(state, stream)
        except (
            RuntimeError
        ) as error:  # the archive's writer hides the system's error behind its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_state(file: Path) -> dict[str, Any]:
    """A state, whole; the tensors of a folder (train/parallel/saved.py) are not read yet. Raises:
    TrainingError if it is damaged, or no state; RemovedError if it is gone."""
    try:
        state = _read(file)
    except Exception as error:  # readers raise whatever damaged bytes make of them
        if not file.exists():
            raise RemovedError(file) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TrainingError(
            f"{file} is damaged or no state of a run ({reason}): put a copy in its place, or train "
            "into another folder; it was left as it is"
        ) from error
    if other := _other_version(state):
        raise TrainingError(f"{file} {FOREIGN} ({other}): {REMEDY}")
    return state


def check_same(file: Path, state: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The settings that were not there when a state was written, which have their defaults.

    Raises TrainingError, naming what differs, for the state of another recipe or model, or of a
    version with other settings.
    """
    config: Config = recipe.model_config
    then = Config.from_dict(state["config"])
    try:
        held, added = completed(state["recipe"])
        if unknown := sorted(then.extra.keys() - config.extra.keys()):
            names = ", ".join(f"config.{name}" for name in unknown)
            raise ValueError(f"{names}: there is no such setting in this version of dsv4")
    except ValueError as error:
        raise TrainingError(f"{file} {FOREIGN} ({error}): {REMEDY}") from error
    changed = [
        *_changes(then.to_dict(), config.to_dict()),
        *_changes(_fixed(held), _fixed(recipe.to_dict())),
    ]
    if len(changed) > MOST_SAID:
        changed[MOST_SAID:] = [f"and {len(changed) - MOST_SAID} more"]
    if changed:
        raise TrainingError(
            f"{file} was made with another configuration or other settings: {', '.join(changed)}: "
            "repeat them, or train into another folder"
        )
    return added


def _fixed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay as it was, by its name on the command line; the config is compared whole."""
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        if name in (*FREE, "model", "config"):
            continue
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": each for key, each in value.items()}
        elif value and isinstance(value, list) and isinstance(value[0], Mapping):
            for number, one in enumerate(value):
                found |= {f"{name}.{number}.{key}": each for key, each in one.items()}
        else:
            found[name] = value
    return found


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The fields that differ: "lr was 0.01, is 0.02"."""
    return [
        f"{name} was {then.get(name)}, is {now.get(name)}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _read(file: Path) -> dict[str, Any]:
    return _checked(_read_folder(file) if file.is_dir() and not file.suffix else _read_file(file))


def _read_folder(folder: Path) -> dict[str, Any]:
    from dsv4.train.parallel import saved

    shards = saved.Shards(folder, saved.check(folder))
    return {**saved.read_plain(folder), "model": shards, "optimizers": shards}


def _read_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError("no regular file")
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type for member in archive.infolist()):
            raise ValueError("compressed, which no state is")
        broken = archive.testzip()  # torch.load looks at no checksum
    if broken is not None:
        raise ValueError(f"{broken} fails its checksum")
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(state, dict):
        for name in TENSORS:
            if not isinstance(state.get(name), FIELDS[name]):
                raise ValueError(f"{name} is {type(state.get(name)).__name__}")
    return state


def _checked(state: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(state, dict) or FIELDS.keys() - state.keys():
        raise ValueError(f"must hold {', '.join(FIELDS)}")
    for name, kind in FIELDS.items():
        if name not in TENSORS and not isinstance(state[name], kind):
            raise ValueError(f"{name} is {type(state[name]).__name__}")
    position = state["position"].values()
    if not all(isinstance(count, int) for count in position) or min(position, default=-1) < 0:
        raise ValueError(f"position {state['position']}")
    return state


def _other_version(state: Mapping[str, Any]) -> str:
    """What a state of this version would not hold, or would hold; else nothing."""
    held = {"": (state, FIELDS), "history.": (state["history"], [f.name for f in fields(History)])}
    held |= {f"{part}.": (state[part], known) for part, known in PARTS.items()}
    for prefix, (own, known) in held.items():
        if unknown := [prefix + name for name in own if name not in known]:
            return f"{', '.join(unknown)}: unknown here"
        if prefix != "history." and (missing := [prefix + n for n in known if n not in own]):
            return f"{', '.join(missing)}: missing"
    return ""


def restore(
    state: dict[str, Any],
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    whole: Whole = WHOLE,
) -> None:
    """Give a state's tensors to a model and its optimizers.

    Raises: TrainingError, before anything is changed, if they are not of this model.
    """
    if whole is not WHOLE or not isinstance(state["model"], dict):
        from dsv4.train.parallel import saved

        whole.settle(model)
        try:
            saved.load(state, model, optimizers, whole)
        except ValueError as error:
            raise TrainingError(f"the saved state is not of this model: {error}") from error
        return
    unfit = _unfit(state["model"], model.state_dict())
    if len(state["optimizers"]) != len(optimizers):
        unfit = unfit or f"it has {len(state['optimizers'])} optimizers"
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=False):
        unfit = unfit or _unfit_moments(kept, optimizer)
    if unfit:
        raise TrainingError(f"the saved state is not of this model: {unfit}")
    model.load_state_dict(state["model"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        groups = zip(optimizer.state_dict()["param_groups"], kept["param_groups"], strict=True)
        optimizer.load_state_dict(kept | {"param_groups": [own | then for own, then in groups]})


def _unfit(saved: dict[str, Any], wanted: dict[str, Tensor]) -> str:
    """The first tensor that is missing, unknown or of another shape or dtype; else nothing."""
    for name in (*wanted, *saved):
        here, there = wanted.get(name), saved.get(name)
        if here is None or not isinstance(there, Tensor):
            return f"{name} is {'unknown' if here is None else 'missing'}"
        if (here.shape, here.dtype) != (there.shape, there.dtype):
            return f"{name} is {list(there.shape)} of {there.dtype}"
    return ""


def _unfit_moments(saved: Any, optimizer: torch.optim.Optimizer) -> str:
    """The first difference between a saved optimizer state and what `optimizer` can take."""
    groups = optimizer.state_dict()["param_groups"]
    if not isinstance(saved, dict) or saved.keys() != {"state", "param_groups"}:
        return "an optimizer's state has another form"
    if [g.get("params") for g in saved["param_groups"]] != [g["params"] for g in groups]:
        return "an optimizer has other parameters"
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, moments in saved["state"].items():
        for name, moment in moments.items():
            if moment.dim() and moment.shape != parameters[number].shape:
                return f"{name} of parameter {number} is {list(moment.shape)}"
    return ""
