"""The application: every path, and what it does with a request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from dsv4.server import documents as doc
from dsv4.server.body import parse, read_body
from dsv4.server.errors import ApiError
from dsv4.server.gate import Gate
from dsv4.server.page import router as page
from dsv4.server.reply import Inbox
from dsv4.server.service import Answer, Service
from dsv4.server.stream import EventStream, collect, pieces, until_gone
from dsv4.server.tokens import TokensApi
from dsv4.server.writer import encode

log = logging.getLogger("dsv4.server")
GET = ["GET", "HEAD"]
GONE = 499  # the client left before its answer

Told = tuple[tuple[str, ...], Callable[..., Any], list[str], doc.Operation]  # paths, by methods


class Json(Response):
    """JSON that may hold any text."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Any = None):
        super().__init__(
            encode(content), status_code, {"Cache-Control": "no-store"} | (headers or {})
        )


def create_app(service: Service) -> FastAPI:
    """The application of a service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="dsv4",
        description=doc.ABOUT,
        version=doc.VERSION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    routes = list(app.routes)
    for router in (_generating(service), _telling(service), page):
        app.include_router(router)
        routes += router.routes
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(HTTPException, _telling_of_http(routes))
    app.add_exception_handler(Exception, _told_of_fault)
    app.add_middleware(Gate, settings=service.settings, metrics=service.metrics)
    return app


def _generating(service: Service) -> APIRouter:
    """The paths that generate."""
    router = APIRouter()
    settings = service.settings

    async def answer(request: Request, api: Callable[[bytes, Inbox], Answer]) -> Response:
        data = await read_body(request, settings.max_body, settings.patience)
        inbox = service.inbox()
        given = await service.aside(lambda: api(data, inbox), len(data))
        exchange = given.exchange

        def left() -> None:
            exchange.cancel()
            service.metrics.exchanged(exchange)

        streams = False
        try:
            if not given.stream:
                stayed = await collect(given, request)
                return Json(given.writer.whole()) if stayed else Response(status_code=GONE)
            streams = await until_gone(request.receive, exchange.started(settings.keep_alive))
            if not streams:
                return Response(status_code=GONE)
            return EventStream(pieces(given, settings.keep_alive), settings.patience, left)
        finally:
            if not streams:
                left()

    def route(
        paths: tuple[str, ...], api: Callable[[bytes, Inbox], Answer], of: doc.Operation
    ) -> None:
        async def endpoint(request: Request) -> Response:
            return await answer(request, api)

        for number, path in enumerate(paths):
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                name=of.name,
                operation_id=f"{of.name}_{number}" if number else of.name,
                summary=of.summary,
                responses=of.responses,
                openapi_extra=of.extra,
                response_class=Json,
            )

    route(
        ("/v1/chat/completions", "/chat/completions", "/beta/chat/completions"),
        service.chat,
        doc.CHAT,
    )
    route(("/v1/completions", "/completions", "/beta/completions"), service.completions, doc.TEXT)
    route(("/v1/responses", "/responses"), service.responses, doc.RESPONSES)
    route(("/v1/messages", "/anthropic/v1/messages"), service.messages, doc.MESSAGES)
    return router


def _telling(service: Service) -> APIRouter:
    """The paths that tell something without generating."""
    router = APIRouter()
    for paths, endpoint, methods, of in (
        *_of_models(service),
        *_of_responses(service),
        *_of_texts(service),
        *_of_itself(service),
    ):
        for path, method in ((path, method) for path in paths for method in methods):
            router.add_api_route(
                path,
                endpoint,
                methods=[method],
                name=of.name,
                operation_id=f"{of.name}_{method}_{path}".lower(),
                summary=of.summary,
                responses=of.responses,
                openapi_extra=of.extra,
                response_class=Json,
                include_in_schema=method != "HEAD",
            )
    return router


def _of_models(service: Service) -> Iterator[Told]:
    def models() -> list[dict[str, Any]]:
        made = int(service.metrics.began)
        return [
            {
                "id": name,
                "object": "model",
                "created": made,
                "owned_by": "dsv4",
                "type": "model",
                "display_name": name,
                "created_at": _iso(made),
                "max_model_len": service.engine.context,
                "dsv4": {"effort": "high" if service.settings.thinking else "none"},
            }
            for name in service.settings.models
        ]

    async def list_models() -> Response:
        found = models()
        ends = {"has_more": False, "first_id": found[0]["id"], "last_id": found[-1]["id"]}
        return Json({"object": "list", "data": found} | ends)

    async def one_model(model: str) -> Response:
        for found in models():
            if found["id"] == model:
                return Json(found)
        raise ApiError(404, f"The model '{model}' does not exist", "model", "model_not_found")

    one = "/{model:path}"
    yield ("/v1/models", "/models"), list_models, GET, doc.LIST_MODELS
    yield ("/v1/models" + one, "/models" + one), one_model, GET, doc.ONE_MODEL
    yield ("/anthropic/v1/models",), list_models, GET, doc.MODELS_OF_MESSAGES
    yield ("/anthropic/v1/models" + one,), one_model, GET, doc.MODEL_OF_MESSAGES


def _of_responses(service: Service) -> Iterator[Told]:
    async def response(response_id: str) -> Response:
        return Json(service.store.response(response_id))

    async def forget(response_id: str) -> Response:
        service.store.drop(response_id)
        return Json({"id": response_id, "object": "response", "deleted": True})

    paths = ("/v1/responses/{response_id}", "/responses/{response_id}")
    yield paths, response, GET, doc.RESPONSE
    yield paths, forget, ["DELETE"], doc.FORGET


def _of_texts(service: Service) -> Iterator[Told]:
    settings, tokens = service.settings, TokensApi(service)

    async def aside(request: Request, work: Callable[[bytes], Any]) -> Response:
        data = await read_body(request, settings.max_body, settings.patience)
        return Json(await service.aside(lambda: work(data), len(data)))

    async def count(request: Request) -> Response:
        return await aside(request, lambda data: {"input_tokens": service.count_tokens(data)})

    async def tokenize(request: Request) -> Response:
        return await aside(request, lambda data: tokens.tokenize(parse(data)))

    async def detokenize(request: Request) -> Response:
        return await aside(request, lambda data: tokens.detokenize(parse(data)))

    async def tokenizer_info() -> Response:
        return Json(tokens.info())

    counted = "/v1/messages/count_tokens"
    yield (counted, "/anthropic" + counted), count, ["POST"], doc.COUNT
    yield ("/tokenize",), tokenize, ["POST"], doc.TOKENIZE
    yield ("/detokenize",), detokenize, ["POST"], doc.DETOKENIZE
    yield ("/tokenizer_info",), tokenizer_info, GET, doc.TOKENIZER_INFO


def _of_itself(service: Service) -> Iterator[Told]:
    async def health() -> Response:
        found = service.engine.backends()
        if not found:
            return Json({"status": "ok"})
        secret = service.settings.api_key is not None  # this path asks for no key
        told = [
            {"number": number, "live": one.live} | ({} if secret else {"url": one.url})
            for number, one in enumerate(found)
        ]
        live = any(one.live for one in found)
        status = "ok" if live else "no backend is live"
        return Json({"status": status, "backends": told}, 200 if live else 503)

    async def metrics() -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return PlainTextResponse(service.metrics.text(), media_type=kind)

    yield ("/health",), health, GET, doc.HEALTH
    yield ("/metrics",), metrics, GET, doc.METRICS


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.shaped(request.url.path), error.status, error.headers)


def _telling_of_http(routes: Sequence[BaseRoute]) -> Callable[..., Awaitable[Response]]:
    """What is said of a path or method that is none. Each of `routes` has a method of its path."""

    async def told(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, method = request.url.path, request.method
        shaped = ApiError(error.status_code, f"{error.detail}: {method} {path}")
        headers = {**shaped.headers, **(error.headers or {})}
        if error.status_code == 405:
            here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
            methods = {"OPTIONS"}.union(*(getattr(route, "methods", None) or () for route in here))
            headers["Allow"] = ", ".join(sorted(methods))
            if method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        return JSONResponse(shaped.shaped(path), error.status_code, headers)

    return told


async def _told_of_fault(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    shaped = ApiError(500, "the server failed: its log says why")
    return JSONResponse(shaped.shaped(request.url.path), 500, shaped.headers)
