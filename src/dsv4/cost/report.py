"""A model's cost at one context, as one object that prints as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dsv4.checkpoint.inventory import Inventory, of_config
from dsv4.config import Config
from dsv4.cost import baseline, flops, memory
from dsv4.model.cache_size import CacheBytes, cache_bytes, gqa_bytes

ASSUMPTIONS = (
    "two FLOPs for each multiplication and addition of a matrix product; elementwise work left out",
    "FP8-equivalent: linears count 1, attention (BF16) 2, V4's index products (FP4) 1/2, V3.2's 1",
    "a token is decoded with its logits, without a draft; embedding rows are read, not multiplied",
    "the indexer scores only where more entries are visible than it keeps, as in this model",
    "cache as stored, scales included: window, entries, index keys, tails; room to step back apart",
    "V3.2: 512 FP8 + 64 BF16 + 128 FP8 channels a token and layer, float32 scales of 128 channels",
    "GQA-8: 8 key and value heads of 128 BF16 channels in as many layers",
)


@dataclass(frozen=True)
class Cost:
    """Everything that is counted; `dict()` is the JSON object."""

    context: int
    token: flops.Flops
    prompt: flops.Flops
    cache: CacheBytes
    weights: memory.Weights
    total_parameters: int  # logical numbers, the draft's and the embedding's included
    activated_parameters: int  # of a token in the main model, embedding and head whole
    multiplied_parameters: int  # the same without the embedding, of which one row is read
    flops_ratio: float | None  # to V3.2's
    cache_ratio: float | None
    gqa_ratio: float

    @property
    def kv_cache(self) -> int:
        """Bytes of one sequence."""
        return _held(self.cache)

    def dict(self) -> dict[str, Any]:
        """JSON: `flops_per_token` and `kv_cache_bytes` are totals, their parts beside them."""
        found: dict[str, Any] = {
            "context": self.context,
            "flops_per_token": self.token.fp8,
            "flops_per_token_unweighted": self.token.total,
            "flops_by_part": dict(self.token.parts),
            "prefill_flops": self.prompt.fp8,
            "kv_cache_bytes": self.kv_cache,
            "kv_cache_by_part": asdict(self.cache),
            "kv_cache_of_gqa8": self.gqa_ratio,
            "weights": asdict(self.weights) | {"total": self.weights.total},
            "activated_bytes_per_token": self.weights.activated + self.kv_cache,
            "parameters": {
                "total": self.total_parameters,
                "activated": self.activated_parameters,
                "multiplied": self.multiplied_parameters,
            },
            "assumptions": list(ASSUMPTIONS),
        }
        if self.flops_ratio is not None:
            found["ratio"] = {"flops": self.flops_ratio, "kv_cache": self.cache_ratio}
        return found


def held_bytes(config: Config, context: int) -> int:
    """Bytes of the cache of one sequence of `context` tokens."""
    return _held(cache_bytes(config, context))


def _held(cache: CacheBytes) -> int:
    """All but the room that lets a sequence step back over drafts."""
    return cache.total - cache.step_back


def costs(config: Config, contexts: Sequence[int], *, against_v32: bool = False) -> list[Cost]:
    """`cost` at each of several contexts; the files are counted once."""
    longest = config.max_position_embeddings
    wrong = [context for context in contexts if not 1 <= context <= longest]
    if wrong:
        raise ValueError(f"context = {wrong[0]}: must be 1 to {longest} tokens, the model's own")
    counted, weights = of_config(config), memory.weights(config)
    return [_cost(config, each, counted, weights, against_v32) for each in contexts]


def cost(config: Config, context: int, *, against_v32: bool = False) -> Cost:
    """What a model of `config` costs with `context` tokens.

    Raises ValueError for a context that the model does not have.
    """
    return costs(config, [context], against_v32=against_v32)[0]


def _cost(
    config: Config, context: int, counted: Inventory, weights: memory.Weights, against_v32: bool
) -> Cost:
    token, cache = flops.token(config, context), cache_bytes(config, context)
    embedding = config.vocab_size * config.hidden_size
    return Cost(
        context=context,
        token=token,
        prompt=flops.prompt(config, context),
        cache=cache,
        weights=weights,
        total_parameters=counted.parameters,
        activated_parameters=counted.activated_parameters,
        multiplied_parameters=counted.activated_parameters - embedding,
        flops_ratio=token.fp8 / baseline.token(context).fp8 if against_v32 else None,
        cache_ratio=_held(cache) / baseline.cache_bytes(context) if against_v32 else None,
        gqa_ratio=_held(cache) / gqa_bytes(config, context),
    )
