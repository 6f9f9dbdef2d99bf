"""What the states of tolerant reading have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from dsv4.protocol.scan import Mode
from dsv4.protocol.tags import Step


class State(ABC):
    """It takes a step of the scanner and says which state follows."""

    @property
    def mode(self) -> Mode:
        """How the text is to be searched."""
        return "text"

    @abstractmethod
    def step(self, step: Step) -> State:
        """Reads a step; the state after it."""

    def release(self, complete: bool) -> list[Step]:
        """At the end of the completion, `complete` or cut: the steps that were held back."""
        return []

    @abstractmethod
    def cut(self, half: str, at: int) -> None:
        """The completion broke off here, perhaps in half a tag."""


class Outer(State):
    """The text around blocks."""

    @abstractmethod
    def after_block(self, closed: bool) -> State:
        """The state after a block; it may have broken off without an end tag."""
