"""What a checkpoint consists of, from its config alone or from the headers of its shards.

parameters = every weight's numbers in the logical shape; scales and tid2eid are no parameters
activated = those of the main model (no draft), of the routed experts num_experts_per_tok / E
mtp_… = the draft, whose tensors are named mtp.* be it an MTP block or a DSpark draft
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dsv4.checkpoint.layout import DTYPE_NAMES, layout, shard_count, weights
from dsv4.checkpoint.reader import Checkpoint
from dsv4.config import Config

PACKED_FP4 = "I8"


@dataclass(frozen=True)
class Inventory:
    """Totals of one checkpoint. `bytes` are the tensors' own, without the shards' headers.

    Embedding and head count whole among the activated parameters: 13.8B for V4-Flash.
    """

    tensors: int
    shards: int
    bytes: int
    dtypes: dict[str, int]
    bytes_by_dtype: dict[str, int]
    parameters: int
    activated_parameters: int
    mtp_tensors: int
    mtp_bytes: int
    mtp_parameters: int


def of_config(config: Config) -> Inventory:
    """The inventory of a checkpoint of `config` in the released layout. No tensor is made."""
    stored = (
        (name, tensor.shape, DTYPE_NAMES[tensor.dtype], tensor.nbytes)
        for name, tensor in layout(config).items()
    )
    return _count(stored, config, shard_count(config))


def of_checkpoint(checkpoint: Checkpoint) -> Inventory:
    """The inventory of an open checkpoint, from its headers.

    Raises: MismatchError if its tensors are not those of its config.
    """
    checkpoint.check({name: weight.shape for name, weight in weights(checkpoint.config).items()})
    itemsize = {name: dtype.itemsize for dtype, name in DTYPE_NAMES.items()}
    stored = (
        (name, tensor.shape, tensor.dtype, math.prod(tensor.shape) * itemsize[tensor.dtype])
        for name, tensor in checkpoint.tensors.items()
    )
    return _count(stored, checkpoint.config, len(checkpoint.shards))


def _count(
    stored: Iterable[tuple[str, tuple[int, ...], str, int]], config: Config, shards: int
) -> Inventory:
    """Totals over (name, stored shape, dtype, bytes)."""
    tensors: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    mtp_tensors = mtp_bytes = 0
    for name, shape, dtype, size in stored:
        tensors[dtype] += 1
        nbytes[dtype] += size
        draft = name.startswith("mtp.")
        mtp_tensors += draft
        mtp_bytes += size * draft
        if name.endswith((".scale", ".tid2eid")):
            continue
        routed = ".ffn.experts." in name
        part = "mtp" if draft else "routed" if routed else "always"
        numbers[part] += math.prod(shape) * (2 if dtype == PACKED_FP4 else 1)
    chosen = numbers["routed"] // config.n_routed_experts * config.num_experts_per_tok
    return Inventory(
        tensors=tensors.total(),
        shards=shards,
        bytes=nbytes.total(),
        dtypes=dict(tensors),
        bytes_by_dtype=dict(nbytes),
        parameters=numbers.total(),
        activated_parameters=numbers["always"] + chosen,
        mtp_tensors=mtp_tensors,
        mtp_bytes=mtp_bytes,
        mtp_parameters=numbers["mtp"],
    )
