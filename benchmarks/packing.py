"""What best-fit packing saves: python benchmarks/packing.py FOLDER (of `dsv4 data build`)

For rows of several lengths: the share of documents that are cut, of tokens that stand in a later
piece and so do not see their document's beginning, and of room that is padding; beside them the
same of documents laid end to end and cut into rows.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from dsv4.data.prepared import open_sources
from dsv4.data.stream import Stream

LENGTHS = (256, 1024, 4096, 16384)


def concatenated(lengths: np.ndarray, seq_len: int) -> np.ndarray:
    """Documents cut and tokens in a later piece, end to end in a seeded order."""
    order = np.random.default_rng(0).permutation(lengths)
    ends = np.cumsum(order)
    starts = ends - order
    cut = starts // seq_len < (ends - 1) // seq_len
    border = (starts // seq_len + 1) * seq_len  # the first that a document may meet
    return np.array([cut.sum(), np.where(cut, ends - border, 0).sum()])


def packed(stream: Stream, seq_len: int) -> np.ndarray:
    """The same of best fit, and the room of its rows."""
    begun = stream.file.offsets[:-1]
    later = rows = 0
    while stream.epoch == 0:
        row = stream.next(seq_len)
        rows += 1
        starts = np.array([span.start for span in row])
        whole = begun[np.searchsorted(begun, starts, "right") - 1] == starts
        later += sum(span.length for span, w in zip(row, whole, strict=True) if not w)
    longer = np.diff(stream.file.offsets) > seq_len
    return np.array([longer.sum(), later, rows * seq_len])


def main(folder: Path) -> None:
    """Print a table over all sources."""
    sources = open_sources(folder, verify=False)
    documents = sum(source.file.header.documents for source in sources)
    tokens = sum(source.file.header.tokens for source in sources)
    print("| row | cut, end to end | best fit | later tokens, end to end | best fit | padding |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seq_len in LENGTHS:
        begun = time.perf_counter()
        plain, best = np.zeros(2), np.zeros(3)
        for source in sources:
            plain += concatenated(np.diff(source.file.offsets), seq_len)
            best += packed(Stream(source.file, 0), seq_len)
        shares = (
            *(plain[0] / documents, best[0] / documents),
            *(plain[1] / tokens, best[1] / tokens),
            1 - tokens / best[2],
        )
        print(f"| {seq_len:,} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")
        print(f"{tokens / (time.perf_counter() - begun):,.0f} tokens/s", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
