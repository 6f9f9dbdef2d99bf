"""Where else a run's rows go: trackio, TensorBoard, wandb; each is imported when a run names it.

A service that fails, whatever it raises, is named once and told no more: no run ends for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dsv4.train.recipe import Recipe

PROJECT = "dsv4"
MODULES = {
    "trackio": "trackio",
    "tensorboard": "torch.utils.tensorboard",
    "wandb": "wandb",
}


class Sink(Protocol):
    """Takes the numbers of a step."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """A step's numbers."""

    def close(self) -> None:
        """The run ended."""


class _Trackio:
    def __init__(self, module: Any, out: Path, recipe: Recipe):
        self._module = module
        module.init(project=PROJECT, name=_name(out, recipe), config=recipe.to_dict())

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        self._module.finish()


class _Wandb:
    """Its own steps never go back, as those of a run do that goes back from a spike."""

    def __init__(self, module: Any, out: Path, recipe: Recipe):
        name = _name(out, recipe)
        self._run = module.init(project=PROJECT, name=name, config=recipe.to_dict(), dir=str(out))
        self._run.define_metric("*", step_metric="step")

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({**numbers, "step": step})

    def close(self) -> None:
        self._run.finish()


def _name(out: Path, recipe: Recipe) -> str:
    """`nano` in `runs/nano` once, else both."""
    return out.name if out.name == recipe.name else f"{recipe.name} {out.name}"


class _TensorBoard:
    def __init__(self, module: Any, out: Path, recipe: Recipe):
        self._writer = module.SummaryWriter(log_dir=str(out / "tensorboard"))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


KINDS: dict[str, Callable[[Any, Path, Recipe], Sink]] = {
    "trackio": _Trackio,
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
}


class Sinks:
    """All that a recipe names. Raises ValueError for one that is not installed."""

    def __init__(
        self, names: tuple[str, ...], out: Path, recipe: Recipe, *, say: Callable[[str], None]
    ):
        self._say = say
        self._open: dict[str, Sink] = {}
        for name in names:
            module = _module(name)
            try:
                self._open[name] = KINDS[name](module, out, recipe)
            except Exception as error:  # whatever a service raises, the run goes on
                self._failed(name, error)

    def log(self, row: Mapping[str, Any]) -> None:
        """The numbers of a row."""
        numbers = {name: float(value) for name, value in row.items() if _is_number(name, value)}
        self._each(lambda sink: sink.log(numbers, row["step"]))

    def close(self) -> None:
        """End them all."""
        self._each(lambda sink: sink.close())

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name, sink in list(self._open.items()):
            try:
                call(sink)
            except Exception as error:
                self._failed(name, error)
                del self._open[name]

    def _failed(self, name: str, error: Exception) -> None:
        reason = str(error).partition("\n")[0] or type(error).__name__
        self._say(f"{name} failed and is told no more: {reason}")


def check_sinks(names: tuple[str, ...]) -> None:
    """Raises ValueError for one that is not installed."""
    for name in names:
        _module(name)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise ValueError(
            f"sinks = {name!r} is not installed: pip install 'dsv4[{name}]', or leave it out "
            f"({error})"
        ) from error


def _is_number(name: str, value: Any) -> bool:
    return name != "step" and isinstance(value, int | float)
