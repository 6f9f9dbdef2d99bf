"""A request's body: bytes → JSON, strictly, within bounds."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from starlette.requests import ClientDisconnect, Request

from dsv4.server.errors import ApiError

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # may be half a surrogate pair


async def read_body(request: Request, most: int, patience: float = 60.0) -> bytes:
    """The bytes. Raises ApiError: 413 as soon as they are too many, 408 when none came for
    `patience` seconds.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise _too_large(most)
    data = bytearray()
    try:
        pieces = aiter(request.stream())
        while True:
            async with asyncio.timeout(patience):
                piece = await anext(pieces, None)
            if piece is None:
                break
            data += piece
            if len(data) > most:
                raise _too_large(most)
    except TimeoutError as error:
        raise ApiError(408, f"no byte of the body came for {patience:g} s", close=True) from error
    except ClientDisconnect as error:
        raise ApiError(400, "the body broke off") from error
    return bytes(data)


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError: 400 for whatever is none by RFC 8259."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
        if _HALF.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(400, f"invalid request body: not UTF-8 at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise ApiError(400, "invalid request body: half a surrogate pair in a text") from error
    except RecursionError as error:
        raise ApiError(400, "invalid request body: nested too deeply") from error
    except ValueError as error:
        raise ApiError(400, f"invalid request body: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ApiError(400, "invalid request body: must be a JSON object")
    return value


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes: send less", close=True)
