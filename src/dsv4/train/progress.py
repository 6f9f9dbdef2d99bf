"""How a run is seen: a line of text about every tenth step; `cli/bar.py` has one for terminals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

EVERY = 10  # steps, of which one has a line


@runtime_checkable
class Progress(Protocol):
    """Is told each step's row, and what happens beside."""

    def show(self, row: Mapping[str, Any], tokens: int) -> None:
        """A step of a run of so many `tokens`."""

    def note(self, line: str) -> None:
        """Something that happened."""

    def close(self) -> None:
        """The run ended."""


class Lines:
    """One line for a step that was evaluated, and for every tenth."""

    def __init__(self, say: Callable[[str], None]):
        self.note = say

    def show(self, row: Mapping[str, Any], tokens: int) -> None:
        """A step's line."""
        if "event" not in row and ("validation_loss" in row or row["step"] % EVERY == 0):
            self.note(line(row, tokens))

    def close(self) -> None:
        """Nothing is open."""


def line(row: Mapping[str, Any], tokens: int) -> str:
    """`step 20  1.2M/9.8M tokens  loss 3.211  lr 1.0e-02  2,100 tokens/s (41%)  …`."""
    parts = [f"step {row['step']}  {_short(row['tokens'])}/{_short(tokens)} tokens"]
    parts.append(f"loss {row['loss']:.3f}")
    if "index_kl" in row:
        recall = f" recall {row['index_recall']:.2f}" if "index_recall" in row else ""
        parts.append(f"index KL {row['index_kl']:.3f}{recall}")
    parts.append(f"lr {row['lr']:.1e}  {row['tokens_per_s']:,.0f} tokens/s (MFU {row['mfu']:.0%})")
    if "expert_load" in row:
        parts.append(f"load {row['expert_load']:.1f}×")
    parts.append(f"{row['memory'] / 2**30:.1f} GiB  {duration(row['seconds_left'])} left")
    if row.get("anticipated"):
        parts.append("routed ahead")
    if "validation_loss" in row:
        parts.append(
            f"validation {row['validation_loss']:.3f} ({row['bits_per_byte']:.3f} bits/byte)"
        )
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `4.2 days`."""
    for unit, size in (("days", 172_800), ("h", 7_200), ("min", 90)):
        if seconds >= size:
            value = seconds / {"days": 86_400, "h": 3_600, "min": 60}[unit]
            return f"{value:.0f} min" if unit == "min" else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s"


def _short(count: float) -> str:
    for letter, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(int(count))
