"""What makes Completions exact for whoever stands before this server: ids in both directions, a
grammar of its own, and the place in a reply from which to go on.

`return_token_ids` and `return_tokens_as_token_ids` are vLLM's names, `response_format` of type
structural_tag is too. `dsv4: {"number": n, "said": k}` says that the last k ids of the prompt begin
the reply, whose random numbers are those of choice n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import RequestOptions, fields
from dsv4.protocol.requests.tools import read_format

_FORMATS = ("text", "json_object", "json_schema", "regex", "structural_tag")


@dataclass(frozen=True)
class Exact:
    """`ids`: tell the ids of what was generated; `named`: write tokens as `token_id:N` in the
    arrays; `number`, `said` and `grammar` are a `Job`'s."""

    ids: bool = False
    named: bool = False
    grammar: Mapping[str, Any] | None = None
    number: int = 0
    said: int = 0


EXACT = Exact()  # of who asks for nothing


def read_exact(body: Mapping[str, Any], prompts: Sequence[Sequence[int]]) -> Exact:
    """Of a body whose prompts were read. Raises RequestError."""
    own = fields.inner(body, "dsv4")
    said = fields.integer(own, "said", "dsv4") or 0
    shortest = min(map(len, prompts))
    if said >= shortest:
        raise RequestError(
            f"{said} ids of the reply leave no prompt: it has {shortest}", "dsv4.said"
        )
    return Exact(
        fields.flag(body, "return_token_ids") or False,
        fields.flag(body, "return_tokens_as_token_ids") or False,
        _grammar(body),
        min(fields.integer(own, "number", "dsv4") or 0, 1 << 31),
        said,
    )


def _grammar(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    given = fields.inner(body, "response_format")
    kind = fields.word(given, "type", _FORMATS, "response_format")
    if kind == "structural_tag":
        return {"type": kind, "format": dict(fields.inner(given, "format", "response_format"))}
    inner = fields.inner(given, "json_schema", "response_format")
    _, constraint = read_format(given, "response_format", inner, RequestOptions())
    content = None if constraint is None else constraint.content()
    return None if content is None else {"type": "structural_tag", "format": content}
