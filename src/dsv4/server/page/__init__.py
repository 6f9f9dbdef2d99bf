"""The chat page: static files without a build step, a strict policy, and Markdown on the server.

The page shows nothing of a model as HTML but what `POST /render` made, and loads nothing from
elsewhere. `router` is mounted by the server; the page itself speaks the server's own API.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from dsv4.server.body import parse, read_body
from dsv4.server.errors import ApiError
from dsv4.server.page.markdown import to_html


def _holds(name: str) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: {"type": "string"}}}


STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # the one place that reads HTML is render.js
        "trusted-types dsv4",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MAX_BODY = 128 * 1024  # bytes of JSON of one text to render

BODY = {"required": True, "content": {"application/json": {"schema": _holds("text")}}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": _holds("html")}}},
    400: {"description": "The body is not a JSON object with a text"},
    413: {"description": f"The body is longer than {MAX_BODY} bytes"},
    415: {"description": "The body is not application/json"},
}

_FILES = {file.name: file for file in STATIC.iterdir() if file.suffix in TYPES}
_ONE = CapacityLimiter(1)  # one text at a time: rendering must not crowd out decoding

router = APIRouter()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
def index(request: Request) -> Response:
    """The page."""
    return _send(_FILES["index.html"], request)


@router.api_route("/static/{name}", methods=["GET", "HEAD"], include_in_schema=False)
def static(name: str, request: Request) -> Response:
    """A file of the page."""
    if name not in _FILES:
        raise ApiError(404, f"/static/{name} is no file of the page")
    return _send(_FILES[name], request)


def _send(file: Path, request: Request) -> Response:
    content = file.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[file.suffix], headers=headers)


@router.post("/render", responses=ANSWERS, openapi_extra={"requestBody": BODY})
async def render(request: Request) -> Response:
    """Markdown as HTML that holds only the tags, attributes and links of an allow-list."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a form of a page elsewhere cannot have this type
        raise ApiError(415, f"the content type is {kind or 'missing'}: send application/json")
    text = parse(await read_body(request, MAX_BODY)).get("text")
    if not isinstance(text, str):
        raise ApiError(400, "text must be a string", "text")
    html = await to_thread.run_sync(to_html, text, limiter=_ONE)
    return JSONResponse({"html": html}, headers=HEADERS | {"Cache-Control": "no-store"})
