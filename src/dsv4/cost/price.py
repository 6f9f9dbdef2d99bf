"""The price of a conversation that is sent whole each turn to an API with a prefix cache.

turn i: prompt_i = prompt_{i−1} + reply + new tokens;  hits = prompt_{i−1} + reply (what is known)
price = hits · p_hit + misses · p_miss + reply · p_out, each a million tokens
"""

from __future__ import annotations

from dataclasses import dataclass

MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """Of a million tokens each, in any currency."""

    hit: float
    miss: float
    out: float


@dataclass(frozen=True)
class Bill:
    """Tokens of a whole conversation and what they cost."""

    hits: int
    misses: int
    out: int
    price: float
    without_cache: float


def conversation(turns: int, system: int, new: int, reply: int, prices: Prices) -> Bill:
    """`turns` messages of `new` tokens after `system` tokens, each answered by `reply` tokens.

    Raises ValueError for negative numbers or no turn.
    """
    if turns < 1 or min(system, new, reply) < 0:
        raise ValueError(f"{turns} turns of {system}, {new} and {reply} tokens: none may be less")
    known = hits = misses = 0
    for turn in range(turns):
        fresh = new + (system if turn == 0 else 0)
        hits, misses = hits + known, misses + fresh
        known += fresh + reply
    out = turns * reply
    price = (hits * prices.hit + misses * prices.miss + out * prices.out) / MILLION
    whole = ((hits + misses) * prices.miss + out * prices.out) / MILLION
    return Bill(hits, misses, out, price, whole)
