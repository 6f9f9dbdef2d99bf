"""Bytes: weights by precision, what a token reads of them, and what fits where.

read by a token  = dense weights + k of E routed experts + a row of the embedding + its cache
seconds a token >= max(bytes / bandwidth, FP8-equivalent FLOPs / FLOP rate)
least memory     = weights that stay + one token's experts of a layer + what a process holds beside
                   them (model/residency.py); --max-resident reads other experts on demand
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dsv4.checkpoint.layout import DTYPE_NAMES, layout
from dsv4.config import Config
from dsv4.model.residency import PROCESS, pass_bytes

GIB = 1 << 30
MACHINES = {  # name: bytes of fast memory that weights and caches may take
    "laptop, 16 GB": 12 * GIB,
    "laptop, 32 GB": 27 * GIB,
    "workstation, 64 GB": 58 * GIB,
    "workstation, 192 GB": 180 * GIB,
    "server, 768 GB": 740 * GIB,
    "1 x 80 GB accelerator": 74 * GIB,
    "8 x 80 GB accelerators": 592 * GIB,
    "8 x 141 GB accelerators": 1_040 * GIB,
    "8 x 192 GB accelerators": 1_440 * GIB,
}


@dataclass(frozen=True)
class Weights:
    """Bytes of a checkpoint's tensors, scales included."""

    by_dtype: dict[str, int]
    main: int  # all but the draft
    draft: int
    dense: int  # of the main model, read by every token
    routed: int  # of the main model: all experts that are chosen from
    chosen: int  # of them, what one token chooses
    embedding: int

    @property
    def total(self) -> int:
        """With the draft."""
        return self.main + self.draft

    @property
    def activated(self) -> int:
        """Bytes of weights that one token of decoding reads, without the draft."""
        return self.dense + self.chosen


@dataclass(frozen=True)
class Fit:
    """Whether a model and its caches lie in a machine's memory."""

    machine: str
    memory: int
    sequences: int  # of the context asked for, beside all weights; 0: not even one
    with_draft: int  # the same with the draft's weights in memory too
    capped: bool  # it runs if experts may stay on disk (--max-resident)


def weights(config: Config) -> Weights:
    """Counted from the released layout."""
    by_dtype: dict[str, int] = {}
    main = draft = routed = embedding = tables = 0
    for name, tensor in layout(config).items():
        dtype = DTYPE_NAMES[tensor.dtype]
        by_dtype[dtype] = by_dtype.get(dtype, 0) + tensor.nbytes
        if name.startswith("mtp."):
            draft += tensor.nbytes
            continue
        main += tensor.nbytes
        routed += tensor.nbytes if ".ffn.experts." in name else 0
        embedding += tensor.nbytes if name == "embed.weight" else 0
        tables += tensor.nbytes if name.endswith(".tid2eid") else 0
    rows = 2 * config.hidden_size + config.num_hash_layers * 8 * config.num_experts_per_tok
    return Weights(
        by_dtype=by_dtype,
        main=main,
        draft=draft,
        dense=main - routed - embedding - tables + rows,
        routed=routed,
        chosen=routed * config.num_experts_per_tok // config.n_routed_experts,
        embedding=embedding,
    )


def seconds(nbytes: float, flops: float, bandwidth: float, rate: float) -> float:
    """The least time for a token: no machine reads or multiplies faster."""
    return max(nbytes / bandwidth, flops / rate)


def fits(config: Config, found: Weights, cache: int, cap: int | None = None) -> list[Fit]:
    """Each known machine, smallest first; `cache` bytes a sequence, `cap` on what is used."""
    stay = found.main - found.routed - found.embedding
    experts = math.ceil(found.chosen / config.num_hidden_layers)
    least = stay + experts + PROCESS + pass_bytes(config) + cache
    rows = []
    for name, memory in sorted(MACHINES.items(), key=lambda item: item[1]):
        have = memory if cap is None else min(memory, cap)
        alone, both = ((have - size) // cache for size in (found.main, found.total))
        rows.append(Fit(name, have, max(0, alone), max(0, both), have >= least))
    return rows
