"""What a server can do, found out by asking it: its model, then a reply of a token or two.

The same little completion is asked in fewer and fewer of the ways that make a reply exact, until
one is answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx

from dsv4.remote.http import refusal
from dsv4.remote.wire import BOS, Able, extension
from dsv4.tokenizer import Tokenizer

EXPECTED = "{}"  # what no model begins a text with by itself
FORMAT = {"type": "structural_tag", "format": {"type": "const_string", "value": EXPECTED}}
TEXT = "Grüße, <｜User｜> 1234 </think>\n\nif x:\n\t\tpass 你好"  # split by each in its own way
MISSING = (404, 405, 501)


class UnableError(Exception):
    """A server that answers, and cannot be a backend: why, and the remedy."""


class _Way(NamedTuple):
    """One way to ask."""

    ids: bool
    extended: bool
    held: bool


async def probe(client: httpx.AsyncClient, url: str, tokenizer: Tokenizer) -> Able:
    """What the server at `url` can do. Raises UnableError, httpx.HTTPError."""
    models = await _json(client, "GET", f"{url}/v1/models")
    listed = models.get("data") if models is not None else None
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], Mapping):
        raise UnableError("it serves no model (/v1/models is empty)")
    model = listed[0]
    await _check_tokenizer(client, url, tokenizer)
    name, context = str(model.get("id")), model.get("max_model_len")
    able = Able(
        name,
        str(model.get("owned_by") or ""),
        context if isinstance(context, int) and context > 0 else None,
    )
    return await _ask(client, url, able, tokenizer)


async def _ask(client: httpx.AsyncClient, url: str, able: Able, tokenizer: Tokenizer) -> Able:
    why = ""
    for way in _ways():
        body = _body(able.model, way, tokenizer)
        response = await client.post(f"{url}/v1/completions", json=body)
        if response.status_code in MISSING:
            raise UnableError(f"it has no /v1/completions ({response.status_code})")
        if response.is_success:
            return _found(able, way, response)
        why = refusal(response)
        if response.status_code in (401, 403, 429, 503):
            break  # another way of asking would not help
    raise UnableError(f"it answers {why}")


def _ways() -> Iterator[_Way]:
    yield _Way(True, True, True)
    yield _Way(True, True, False)
    yield _Way(True, False, False)
    yield _Way(False, True, False)
    yield _Way(False, False, False)


def _body(model: str, way: _Way, tokenizer: Tokenizer) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "prompt": [tokenizer.token_id(BOS)] if way.ids else BOS,
        "max_tokens": 4 if way.held else 1,
        "temperature": 0,
    }
    body |= extension(way.ids) if way.extended else {}
    return body | ({"response_format": FORMAT} if way.held else {})


def _found(able: Able, way: _Way, response: httpx.Response) -> Able:
    try:
        found = response.json()
        choice = found["choices"][0]
        text, ids = choice.get("text") or "", choice.get("token_ids")
        asked = (found.get("usage") or {}).get("prompt_tokens")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnableError("its /v1/completions answers what is no completion") from error
    return Able(
        able.model,
        able.kind,
        able.context,
        extended=way.extended,
        takes_ids=way.ids,
        gives_ids=isinstance(ids, list),
        holds=way.held and text.startswith(EXPECTED),
        adds_bos=not way.ids and asked == 2,
    )


async def _check_tokenizer(client: httpx.AsyncClient, url: str, tokenizer: Tokenizer) -> None:
    """Raises UnableError where the server splits text in another way; not all can be asked."""
    body = {"prompt": TEXT, "add_special_tokens": False}
    response = await client.post(f"{url}/tokenize", json=body)
    try:
        tokens = json.loads(response.content).get("tokens") if response.is_success else None
    except (ValueError, AttributeError):
        return
    if tokens and isinstance(tokens, list) and tokens != tokenizer.encode(TEXT, special=True):
        raise UnableError(
            "its tokenizer is another: name the checkpoint that it serves, dsv4 serve CKPT"
        )


async def _json(client: httpx.AsyncClient, method: str, url: str) -> Mapping[str, Any] | None:
    response = await client.request(method, url)
    if not response.is_success:
        raise UnableError(f"it answers {refusal(response)}")
    try:
        found = json.loads(response.content)
    except ValueError as error:
        raise UnableError("its /v1/models is no JSON: is this an API's URL?") from error
    return found if isinstance(found, Mapping) else None
