"""HTTP to servers that others run: where they are, what they say when they refuse, their events.

Events are read byte by byte: JSON may hold characters that end a line of text and no line of a
stream.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

LARGEST = 64 << 20  # bytes of one event
WRONG = ("invalid_request_error", "BadRequestError")  # OpenAI's word for a wrong request, vLLM's


class AddressError(ValueError):
    """A URL that cannot be that of a server."""


def base_url(text: str, option: str) -> str:
    """`http://host:8000/v1/` → `http://host:8000`: paths begin behind it. Raises AddressError."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise AddressError(f"{option} {text}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise AddressError(f"{option} {text}: must be a URL such as http://127.0.0.1:8000")
    if url.query or url.fragment:
        raise AddressError(f"{option} {text}: a server's URL has no query and no fragment")
    return str(url).rstrip("/").removesuffix("/v1").rstrip("/")


def shown(url: str) -> str:
    """A URL without the password that it may hold."""
    return str(httpx.URL(url).copy_with(username=None, password=None)).rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether it is this machine's, which no proxy of the environment reaches."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def headers(key: str | None) -> dict[str, str]:
    """Who asks. Raises AddressError for a key that no header can carry."""
    if not key:
        return {}
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise AddressError("the API key holds a character that no HTTP header can carry")
    return {"Authorization": f"Bearer {key}"}


def refusal(response: httpx.Response) -> str:
    """What a response that is no success says, in one line; its body has been read."""
    try:
        said = message_of(json.loads(response.content))
    except ValueError:
        said = ""
    text = said or " ".join(response.text.split())[:200] or response.reason_phrase
    return f"{response.status_code}: {text}" if text else f"{response.status_code}"


def retry_after(response: httpx.Response) -> float:
    """The seconds that a server asks for; 2 where it does not say."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 2.0


def message_of(body: Any) -> str:
    """The message of an error in any of the usual shapes; empty where there is none."""
    if isinstance(body, Mapping):
        for key in ("error", "message", "detail"):
            found = body.get(key)
            if isinstance(found, str):
                return " ".join(found.split())
            if isinstance(found, Mapping) and (inner := message_of(found)):
                return inner
    return ""


def status_of(body: Mapping[str, Any]) -> int:
    """The status that an error in the middle of a stream stands for, in any of the usual shapes:
    500 where it does not say.
    """
    inner = body.get("error")
    for part in (inner, body) if isinstance(inner, Mapping) else (body,):
        code, kind = str(part.get("code")), str(part.get("type"))
        if code.isascii() and code.isdecimal() and len(code) == 3:
            return int(code)
        if kind in WRONG:
            return 400
    return 500


def reason(error: Exception, url: str) -> str:
    """What a failure of the network is called."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return f"{shown(url)} cannot be reached ({_plain(error)})"
    if isinstance(error, httpx.TimeoutException):
        return f"{shown(url)} does not answer"
    return f"{shown(url)} was lost ({_plain(error)})"


def _plain(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition("] ")[2] or text or type(error).__name__


class Events:
    """The data of server-sent events, from bytes in any pieces; comments and names are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data that is whole after some more bytes. Raises ValueError for one without end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LARGEST:
            raise ValueError("an event of the stream has no end")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
