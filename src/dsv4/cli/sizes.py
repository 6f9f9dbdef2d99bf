"""Sizes in bytes and numbers of tokens as a user writes them: 5GB, 500MiB, 64K, 1M, 1000000."""

from __future__ import annotations

import re
from fractions import Fraction

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(text: str, option: str) -> int:
    """`5GB` → 5,000,000,000. Raises ValueError, naming the option, for what is no size."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS or float(match[1]) == 0:
        raise ValueError(f"{option} {text}: must be a size such as 5GB, 500MiB or 1000000")
    return int(float(match[1]) * UNITS[match[2].upper()])


TOKENS = {"": 1, "K": 10**3, "M": 10**6, "KI": 2**10, "MI": 2**20}
RANGE = re.compile(r"\.\.\.?|…")


def parse_contexts(text: str) -> list[int]:
    """`4K,1M` → 4,000 and 1,000,000; `4K..64K` doubles from the first to the last. K is 1,000, Ki
    1,024, and 1_000_000 is what Python takes it for. Raises ValueError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        ends = [_tokens(end, text) for end in RANGE.split(part)]
        if len(ends) > 2 or ends[-1] < ends[0]:
            raise ValueError(f"--context {text}: a range is FIRST..LAST, such as 4K..1M")
        value = ends[0]
        while value < ends[-1]:
            found.append(value)
            value *= 2
        found.append(ends[-1])
    return found


def _tokens(text: str, whole: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in TOKENS or Fraction(match[1]) == 0:
        raise ValueError(f"--context {whole}: must be tokens such as 4096, 64K, 1M or 4K..1M")
    return round(Fraction(match[1]) * TOKENS[match[2].upper()])
