"""The saved states of a run: the newest few, and what is behind a damaged one.

A state is a file, or a folder that several processes wrote (train/parallel/saved.py).

*Regular* states are those of every `every` steps: a rollback goes to one of them, so that it does
not matter where else the run was stopped. Another one stays until there is a newer regular one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from dsv4.atomic import discard, write_error
from dsv4.train.state import RemovedError, TrainingError, load_state, save_state
from dsv4.train.step import Trainer

NAME = re.compile(r"step-(\d{10})(\.pt)?")
TRIES = 5  # to read a state that a run at work removes
T = TypeVar("T")


class Checkpoints:
    """The folder of a run's states; `say` is told of those that are passed over."""

    suffix = ".pt"  # of states that are written here

    def __init__(self, folder: Path, *, keep: int = 1, every: int = 1):
        self.folder, self.keep, self.every = folder, keep, every

    def file(self, step: int) -> Path:
        """Where the state after `step` steps is, or will be."""
        return next(iter(self.files(step)), self._own(step))

    def files(self, step: int) -> list[Path]:
        """All that is there of the state: a file, a folder, or both, where a run came past a
        damaged one with another number of processes."""
        either = (self.folder / f"step-{step:010}{suffix}" for suffix in (self.suffix, "", ".pt"))
        return [path for path in dict.fromkeys(either) if path.exists()]

    def _own(self, step: int) -> Path:
        return self.folder / f"step-{step:010}{self.suffix}"

    def steps(self) -> list[int]:
        """The steps of all states, in order."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted({int(match[1]) for match in found if match})

    def save(self, step: int, state: dict[str, Any], of: Trainer) -> None:
        """Write a state, whose tensors a trainer has, then remove those that are too old. Raises
        WriteError."""
        self._write(step, state, of)
        held = [other for other in self.steps() if other <= step]
        regular = [other for other in held if other % self.every == 0]
        kept = {step, *regular[-self.keep :]}
        gone = [path for other in held if other not in kept for path in self.files(other)]
        self._discard([*gone, *(path for path in self.files(step) if path != self._own(step))])

    def _write(self, step: int, state: dict[str, Any], of: Trainer) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.folder, error) from error
        optimizers = [optimizer.state_dict() for optimizer in of.optimizers]
        tensors = {"model": of.model.state_dict(), "optimizers": optimizers}
        save_state(self._own(step), state | tensors)

    def _discard(self, paths: Sequence[Path]) -> None:
        """Remove states, and what killed processes left of some: nobody else writes here."""
        for path in (*paths, *self.folder.glob(".step-*")):
            discard(path)

    def newest(self, say: Callable[[str], None]) -> dict[str, Any]:
        """The newest state that is whole. Raises TrainingError if there is none."""
        return self._tried(lambda: self._newest(say), say)

    def newest_model(self, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same, and its model's tensors, while a run at work may remove states. Raises
        TrainingError."""

        def read() -> tuple[dict[str, Any], dict[str, Tensor]]:
            state = self._newest(say)
            held = state["model"]
            return state, held if isinstance(held, dict) else held.model()

        return self._tried(read, say)

    def _newest(self, say: Callable[[str], None]) -> dict[str, Any]:
        if not self.steps():
            raise TrainingError(f"there is no state in {self.folder}: start without --resume")
        return self._first(self.steps()[::-1], say)

    def _tried(self, read: Callable[[], T], say: Callable[[str], None]) -> T:
        """What is read, begun anew where a run at work removes it."""
        removed: RemovedError | None = None
        for _ in range(TRIES):
            if removed is not None:
                say(f"{removed}; taking the newest")
            try:
                return read()
            except RemovedError as error:
                removed = error
        raise TrainingError(
            f"{removed}, as {TRIES - 1} before it: the run saves faster than a state is read: "
            "do it again when it has ended, or give it a larger keep"
        )

    def before(self, step: int, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest regular state of at most `step`, else the oldest; None if there is none."""
        regular = [other for other in self.steps() if other % self.every == 0]
        chosen = [other for other in regular if other <= step] or regular[:1]
        if not chosen:
            return None
        try:
            return self._first(chosen[::-1], say)
        except TrainingError:
            return None

    def drop_after(self, step: int) -> None:
        """Remove the states of a way that was left."""
        left = (other for other in self.steps() if other > step)
        self._discard([path for other in left for path in self.files(other)])

    def _first(self, steps: list[int], say: Callable[[str], None]) -> dict[str, Any]:
        first: TrainingError | None = None
        for file in (file for step in steps for file in self.files(step) or [self._own(step)]):
            try:
                state = load_state(file)
            except RemovedError:
                raise
            except TrainingError as error:
                first = first or error
                continue
            if first is not None:
                say(f"{first}; going on from {file.name}, the one before")
            return state
        assert first is not None
        raise first
