"""What this machine has."""

from __future__ import annotations

import os
from pathlib import Path


def machine_memory() -> int:
    """Bytes that this process may have: the machine's, or a lower limit of its group."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limits)


def free_memory() -> int:
    """Bytes that can be had now without swapping; where the system does not say, half of all."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvail"))
    except (OSError, ValueError, StopIteration):
        return machine_memory() // 2
    return min(free, machine_memory())
