"""The seam between a module and its native twin: the module holds its twin, and says which runs.

A twin reads tensors where they lie. So where they move it is made anew, as it is for a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

Twin = TypeVar("Twin")


class Twinned(nn.Module, Generic[Twin]):
    """A module that a twin may run."""

    twin: Twin | None = None  # None: its own operators run
    _renew: Callable[[Any], Twin | None] | None = None

    def run_by(self, twin: Twin | None, renew: Callable[[Any], Twin | None]) -> None:
        """Let `twin` run this module. For tensors that moved, and in a copy, it is `renew(self)`,
        or none where that is None; `renew` is copied with the module.
        """
        self.twin, self._renew = twin, renew

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.twin = None if self._renew is None else self._renew(self)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "twin"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.twin = None if self._renew is None else self._renew(self)
