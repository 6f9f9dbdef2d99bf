"""Who may ask: the Host must be this server's, the Origin no other site's, the key the right one.

A page elsewhere can make a browser send requests here. It cannot choose their Host (so a name that
was bent to this address is told by it) nor hide its Origin, which every request that changes
something carries.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsv4.server.errors import ApiError
from dsv4.server.metrics import Metrics
from dsv4.server.settings import Settings

OPEN = ("/", "/health", "/favicon.ico")  # and /static: no key is asked for what holds no secret
METHODS = "GET, HEAD, POST, DELETE, OPTIONS"


class Gate:
    """ASGI middleware that lets through what may come in, and counts it."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics):
        self._app, self._settings, self._metrics = app, settings, metrics
        key = settings.api_key
        self._key = None if key is None else hashlib.sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        origin = headers.get("origin")
        welcome = self._welcome(origin)
        status = 500

        async def passed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if welcome:
                    shared = MutableHeaders(scope=message)
                    shared["Access-Control-Allow-Origin"] = origin or ""
                    shared.append("Vary", "Origin")
            await send(message)

        self._metrics.open += 1
        try:
            response = self._refusal(scope["method"], path, headers, welcome)
            await (response or self._app)(scope, receive, passed)
        finally:
            self._metrics.open -= 1
            self._metrics.answered(_known(scope), status)

    def _refusal(self, method: str, path: str, headers: Headers, welcome: bool) -> Response | None:
        """The answer to a request that does not reach the application."""
        try:
            self._check_host(headers.get("host", ""))
            if method == "OPTIONS":  # what a path can do is no secret: the application tells it
                asked = "access-control-request-method" in headers
                return _preflight(headers, welcome) if asked else None
            if method not in ("GET", "HEAD") and not welcome:
                self._check_origin(headers)
            self._check_key(path, headers)
        except ApiError as error:
            return JSONResponse(error.shaped(path), error.status, error.headers)
        return None

    def _check_host(self, host: str) -> None:
        hosts = self._settings.hosts
        name = _name_of(f"//{host}")
        if "*" in hosts or name in hosts or name == "localhost" or name.endswith(".localhost"):
            return
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            address = None
        if address is not None and (self._settings.any_address or address.is_loopback):
            return
        raise ApiError(
            403, f"the host {host!r} is not this server's name: allow it with --allow-host", "Host"
        )

    def _welcome(self, origin: str | None) -> bool:
        origins = self._settings.origins
        return origin is not None and ("*" in origins or origin in origins)

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None:
            return
        try:
            ours = urlsplit(origin).netloc == headers.get("host")
        except ValueError:
            ours = False
        if not ours:
            raise ApiError(
                403, f"pages of {origin!r} may not call this server: allow it with --cors", "Origin"
            )

    def _check_key(self, path: str, headers: Headers) -> None:
        if self._key is None or path in OPEN or path.startswith("/static/"):
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(given.encode("latin-1")).digest()
        if not hmac.compare_digest(digest, self._key):
            raise ApiError(401, "the API key is missing or wrong")


def _preflight(headers: Mapping[str, str], welcome: bool) -> Response:
    """What a browser asks before a page's request."""
    if not welcome:
        return Response(status_code=204)
    out = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "*"),
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=out)


def _name_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _known(scope: Scope) -> str:
    """The path as the routes have it, so that metrics do not grow with what is asked."""
    route = scope.get("route")
    return getattr(route, "path", "other")
