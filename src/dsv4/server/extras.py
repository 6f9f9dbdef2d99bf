"""What a request may ask beyond DeepSeek's contract: n, penalties, cuts, biases, ids that end it.

In thinking mode what shapes the distribution is checked and then dropped, as temperature and top_p
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import fields
from dsv4.protocol.requests.common import check_range


@dataclass(frozen=True)
class Extras:
    """`choices` is n; `end_ids` end the reply beside the model's own end."""

    choices: int = 1
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    end_ids: tuple[int, ...] = ()
    parallel_tool_calls: bool | None = None
    seed: int | None = None

    def thinking(self) -> Extras:
        """What of it holds in thinking mode."""
        return replace(
            self,
            top_k=0,
            min_p=0.0,
            frequency_penalty=0.0,
            presence_penalty=0.0,
            repetition_penalty=1.0,
        )


def read_extras(body: Mapping[str, Any], most_choices: int) -> Extras:
    """The extras of a body. Raises RequestError."""
    choices = fields.integer(body, "n")
    if choices is not None and not 1 <= choices <= most_choices:
        raise RequestError(f"Invalid n value, the valid range of n is [1, {most_choices}]", "n")
    numbers: dict[str, float] = {}
    for name, low, high, shown in (
        ("min_p", 0, 1, "[0, 1]"),
        ("frequency_penalty", -2, 2, "[-2, 2]"),
        ("presence_penalty", -2, 2, "[-2, 2]"),
        ("repetition_penalty", 0.01, 100, "[0.01, 100]"),
    ):
        value = fields.number(body, name)
        check_range(value, name, low, high, shown)
        if value is not None:
            numbers[name] = float(value)
    parallel = fields.flag(body, "parallel_tool_calls")
    seed = fields.integer(body, "seed")
    if seed is not None and seed >= 1 << 63:
        raise RequestError("Invalid seed value, the valid range of seed is [0, 2^63)", "seed")
    return Extras(
        choices=choices or 1,
        top_k=min(fields.integer(body, "top_k") or 0, 1 << 31),
        logit_bias=_biases(body),
        end_ids=tuple(_end_ids(body)),
        parallel_tool_calls=parallel,
        seed=seed,
        **numbers,
    )


def _biases(body: Mapping[str, Any]) -> dict[int, float]:
    """`{"1234": -100}`: keys are ids as text."""
    given = fields.inner(body, "logit_bias")
    if len(given) > 1024:
        raise RequestError("has more than 1024 tokens", "logit_bias")
    out = {}
    for key in given:
        if not (key.isascii() and key.isdecimal() and len(key) < 10):
            raise fields.wrong(key, "logit_bias", "an object whose names are token ids")
        value = fields.number(given, key, "logit_bias")
        check_range(value, f"logit_bias.{key}", -100, 100, "[-100, 100]")
        out[int(key)] = float(value or 0)
    return out


def _end_ids(body: Mapping[str, Any]) -> list[int]:
    ids = fields.items(body, "stop_token_ids")
    for number, token in enumerate(ids):
        if type(token) is not int or token < 0:
            raise fields.wrong(token, f"stop_token_ids[{number}]", "a token id")
    if len(ids) > 1024:
        raise RequestError("has more than 1024 ids", "stop_token_ids")
    return ids
