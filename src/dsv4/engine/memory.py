"""How much of the machine's memory an engine's state takes.

memory = slots · slot bytes + pages · page bytes + snapshots
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4.machine import free_memory
from dsv4.model.transformer import Transformer

SHARE = 0.25  # of the free memory, where nothing is said
SNAPSHOTS = 0.25  # of the memory: windows and tails that the prefix cache keeps
DEFAULT_MOST = 4 << 30


@dataclass(frozen=True)
class Plan:
    """Slots, pages and bytes of snapshots."""

    slots: int
    pages: int
    state_bytes: int

    @classmethod
    def of(cls, model: Transformer, slots: int, memory: int | None) -> Plan:
        """What fits into `memory` bytes (default: a share of what is free, 4 GiB at most).

        Raises ValueError where not even one page for each slot fits.
        """
        probe = model.new_stores(0, 0)
        if memory is None:
            memory = min(DEFAULT_MOST, int(free_memory() * SHARE))
        fixed = slots * probe.slot_bytes
        snapshots = int(memory * SNAPSHOTS)
        left = memory - fixed - snapshots
        page = max(probe.page_bytes, 1)
        longest = -(-model.config.max_position_embeddings // probe.page_tokens)
        pages = min(left // page, slots * longest)
        if pages < slots:
            least = int((fixed + slots * page) / (1 - SNAPSHOTS)) + 1
            raise ValueError(
                f"{memory:,} bytes are too few for {slots} sequences: give at least {least:,}, or "
                "fewer slots"
            )
        return cls(slots, int(pages), snapshots)
