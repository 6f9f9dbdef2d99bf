"""What is wrong with a checkpoint, in one error that lists all of it."""

from __future__ import annotations

from dataclasses import dataclass, field

LISTED = 50  # names of one kind in a message; the error's fields hold all of them


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written as asked: the message says what is wrong."""


@dataclass
class Differences:
    """Where tensors differ from what they should be; each list holds names or descriptions."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)

    def lists(self) -> tuple[list[str], list[str], list[str]]:
        """Missing, unexpected, unfit."""
        return self.missing, self.unexpected, self.unfit

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.missing or self.unexpected or self.unfit)

    def __str__(self) -> str:
        """The kinds that are not empty, on one line."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "wrong shape or dtype": self.unfit,
        }
        return "; ".join(f"{kind} ({len(n)}): {listed(n)}" for kind, n in kinds.items() if n)


class MismatchError(CheckpointError):
    """Tensors that are missing, unexpected or of a wrong shape or dtype, all in one error.

    `shown` are the differences that the message lists, if not all of them.
    """

    def __init__(self, text: str, differences: Differences, shown: Differences | None = None):
        listing = differences if shown is None else shown
        super().__init__(f"{text}: {listing}" if listing else text)
        self.differences = differences


def listed(names: list[str]) -> str:
    """The first names, and how many there are beside them."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f", and {rest:,} more" if rest > 0 else "")
