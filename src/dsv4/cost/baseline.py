"""What the report compares with: DeepSeek-V3.2, and grouped-query attention in bfloat16.

V3.2 (61 layers, 7168 wide): MLA with 128 heads, latent 512 + 64 rotary, queries of rank 1536, heads
of 128 + 64 and values of 128; an indexer of 64 × 128 over every token, top 2048; 256 experts of
2048, 8 of them and a shared one a token, but for 3 dense layers of 18432. Weights and index
products FP8, attention BF16; a token and layer store 512 FP8 latents, 64 BF16 and 128 FP8 indexer
channels, and float32 scales of 128 channels.
"""

from __future__ import annotations

from collections import Counter

from dsv4.cost.flops import Flops

LAYERS, DENSE_LAYERS, WIDE, VOCABULARY = 61, 3, 7168, 129280
HEADS, LATENT, ROTARY, PLAIN, VALUE, RANK = 128, 512, 64, 128, 128, 1536
INDEX_HEADS, INDEX_CHANNELS, TOPK = 64, 128, 2048
EXPERTS, CHOSEN, EXPERT, DENSE = 256, 8, 2048, 18432
SCALED = 128  # channels that share a float32 scale


def token(context: int) -> Flops:
    """One step of decoding of V3.2 at `context` tokens, its projections of keys and values absorbed
    into queries and outputs, by the same rule as V4's: products only."""
    parts: Counter[str] = Counter()
    queries = WIDE * RANK + RANK * HEADS * (PLAIN + ROTARY)
    latents = WIDE * (LATENT + ROTARY) + LATENT * HEADS * (PLAIN + VALUE)
    parts["attention linears"] = 2 * LAYERS * (queries + latents + HEADS * VALUE * WIDE)
    index = RANK * INDEX_HEADS * INDEX_CHANNELS + WIDE * (INDEX_CHANNELS + INDEX_HEADS)
    parts["indexer linears"] = 2 * LAYERS * index
    sparse = LAYERS - DENSE_LAYERS
    parts["routers"] = 2 * sparse * EXPERTS * WIDE
    parts["routed experts"] = 2 * sparse * CHOSEN * 3 * WIDE * EXPERT
    parts["shared experts"] = 2 * sparse * 3 * WIDE * EXPERT
    parts["dense layers"] = 2 * DENSE_LAYERS * 3 * WIDE * DENSE
    parts["head"] = 2 * VOCABULARY * WIDE
    seen = min(context, TOPK)
    parts["attention"] = 2 * LAYERS * HEADS * (LATENT + ROTARY + LATENT) * seen
    scored = 2 * LAYERS * INDEX_HEADS * (INDEX_CHANNELS + 1) * context
    parts["index in FP8"] = scored  # FP4 in V4, where it weighs half
    return Flops(parts)


def cache_bytes(tokens: int) -> int:
    """V3.2's cache of a sequence, scales included."""
    latent = LATENT + 4 * LATENT // SCALED + 2 * ROTARY
    index = INDEX_CHANNELS + 4 * INDEX_CHANNELS // SCALED
    return tokens * LAYERS * (latent + index)
