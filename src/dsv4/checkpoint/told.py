"""Fields that config.json does not have, from the headers of the shards.

embed [V, d] · attn_sink [H] · kv_norm [c] · q_norm [q] · wo_a [g·o, H·c/g] · gate [E, d]
compressor.ape [m, ·], CSA where there is an indexer · weights_proj [ih, d] · tid2eid [V, k]
shared_experts.w1 [i, d] · hc_head_fn [hc, hc·d] · layers.N, mtp.N are counted
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dsv4.config import ConfigError, Fields, LayerKind
from dsv4.config.absent import absent
from dsv4.config.base import kinds_of

PLACE = re.compile(r"(layers|mtp)\.(\d{1,6})\.(.+)")


class Stored(Protocol):
    """What a header says of a tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


class Headers:
    """The tensors of a checkpoint, asked for shapes."""

    def __init__(self, tensors: Mapping[str, Stored]):
        self.tensors = tensors
        self.layers: set[int] = set()
        self.drafts: set[int] = set()
        for name in tensors:
            place = PLACE.match(name)
            if place is not None:
                (self.layers if place[1] == "layers" else self.drafts).add(int(place[2]))

    def size(self, name: str, axis: int, rank: int = 2) -> int | None:
        """One side of a tensor in its logical shape, None unless it is there with this rank."""
        found = self.tensors.get(name)
        if found is None or len(found.shape) != rank:
            return None
        packed = found.dtype == "I8" and axis % rank == rank - 1
        return found.shape[axis] * (2 if packed else 1)

    def anywhere(self, part: str, axis: int, rank: int = 2) -> int | None:
        """The same of the first layer that has the tensor."""
        sizes = (self.size(f"layers.{n}.{part}", axis, rank) for n in sorted(self.layers))
        return next((size for size in sizes if size is not None), None)

    def counted(self) -> int | None:
        """The number of layers, None if some are missing in between."""
        count = len(self.layers)
        return count if count and self.layers == set(range(count)) else None

    def hashed(self) -> int | None:
        """How many first layers route by token id."""
        found = {n for n in self.layers if f"layers.{n}.ffn.gate.tid2eid" in self.tensors}
        return len(found) if found == set(range(len(found))) and self.layers else None

    def groups(self) -> tuple[int, int] | None:
        """o_groups and o_lora_rank."""
        heads, channels = self.anywhere("attn.attn_sink", 0, 1), self.channels()
        rows, columns = (self.anywhere("attn.wo_a.weight", axis) for axis in (0, 1))
        if not (heads and channels and rows and columns) or heads * channels % columns:
            return None
        groups = heads * channels // columns
        return (groups, rows // groups) if rows % groups == 0 else None

    def channels(self) -> int | None:
        """head_dim."""
        return self.anywhere("attn.kv_norm.weight", 0, 1)

    def ratios(self) -> list[int] | None:
        """The compression rate of each layer, 0 without a compressor."""
        if self.counted() is None:
            return None
        return [self.size(f"layers.{n}.attn.compressor.ape", 0) or 0 for n in sorted(self.layers)]

    def kinds(self) -> list[LayerKind]:
        """The kind of each layer by what it has."""
        found = []
        for n in sorted(self.layers):
            prefix = f"layers.{n}.attn."
            if f"{prefix}compressor.ape" not in self.tensors:
                found.append(LayerKind.SLIDING)
            elif f"{prefix}indexer.weights_proj.weight" in self.tensors:
                found.append(LayerKind.CSA)
            else:
                found.append(LayerKind.HCA)
        return found


SIZES: dict[str, Callable[[Headers], Any]] = {
    "vocab_size": lambda h: h.size("embed.weight", 0),
    "hidden_size": lambda h: h.size("embed.weight", 1),
    "num_hidden_layers": Headers.counted,
    "num_attention_heads": lambda h: h.anywhere("attn.attn_sink", 0, 1),
    "head_dim": Headers.channels,
    "q_lora_rank": lambda h: h.anywhere("attn.q_norm.weight", 0, 1),
    "o_groups": lambda h: (h.groups() or (None, None))[0],
    "o_lora_rank": lambda h: (h.groups() or (None, None))[1],
    "compress_ratios": Headers.ratios,
    "index_n_heads": lambda h: h.anywhere("attn.indexer.weights_proj.weight", 0),
    "index_head_dim": lambda h: h.anywhere("attn.indexer.compressor.norm.weight", 0, 1),
    "n_routed_experts": lambda h: h.anywhere("ffn.gate.weight", 0),
    "num_experts_per_tok": lambda h: h.anywhere("ffn.gate.tid2eid", 1),
    "moe_intermediate_size": lambda h: h.anywhere("ffn.shared_experts.w1.weight", 0),
    "num_hash_layers": Headers.hashed,
    "num_nextn_predict_layers": lambda h: int("mtp.0.e_proj.weight" in h.tensors),
    "hc_mult": lambda h: h.size("hc_head_fn", 0),
}


def complete(fields: Fields, tensors: Mapping[str, Stored]) -> dict[str, Any]:
    """config.json's fields, and those that are absent as the shapes tell them."""
    headers, values = Headers(tensors), dict(fields.values)
    if fields.resaved and not headers.drafts:  # transformers keeps the field of what it drops
        values["num_nextn_predict_layers"] = 0
    found = {name: SIZES[name](headers) for name in absent(values) if name in SIZES}
    values |= {name: value for name, value in found.items() if value is not None}
    if "compress_ratios" in found and values.get("layer_types") is None:
        kinds = headers.kinds()
        if _named(found["compress_ratios"]) != kinds:
            values["layer_types"] = [kind.value for kind in kinds]
    if (fields.resaved or "compress_ratios" in found) and values.get("dspark_block_size"):
        ratios = values.get("compress_ratios", ())  # of the layers alone
        values["compress_ratios"] = [*ratios, *[0] * len(headers.drafts)]
    return values


def _named(ratios: list[int] | None) -> list[LayerKind] | None:
    """The kinds that the ratios mean by themselves, None if they do not name them."""
    try:
        return None if ratios is None else list(kinds_of(tuple(ratios)))
    except (ConfigError, KeyError):
        return None
