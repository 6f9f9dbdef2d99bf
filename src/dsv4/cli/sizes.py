"""Sizes in bytes as a user writes them: 5GB, 500MiB, 1000000."""

from __future__ import annotations

import re

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(text: str, option: str) -> int:
    """`5GB` → 5,000,000,000. Raises ValueError, naming the option, for what is no size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS or float(match[1]) == 0:
        raise ValueError(f"{option} {text}: must be a size such as 5GB, 500MiB or 1000000")
    return int(float(match[1]) * UNITS[match[2].upper()])
