"""A server of scripted replies: the page's backend in its tests, deterministic to the chunk.

A user message that names a script is answered by it; a step is a delta, a wait for `go`, or an end.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from dsv4.server.errors import ApiError
from dsv4.server.page import router

WAIT = "wait"  # until the test sets `go`, at most PATIENCE seconds
PATIENCE = 20
USAGE = {
    "prompt_tokens": 1204,
    "completion_tokens": 86,
    "total_tokens": 1290,
    "prompt_cache_hit_tokens": 1190,
    "prompt_cache_miss_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 1190},
}


def say(text):
    return {"content": text, "reasoning_content": None}


def think(text):
    return {"content": None, "reasoning_content": text}


def call(index, name, arguments):
    function = {"name": name, "arguments": arguments}
    return {
        "tool_calls": [
            {"index": index, "id": f"c{index}", "type": "function", "function": function}
        ]
    }


class Scripted:
    """`scripts`: words → steps; `bodies`: what was asked; `gone`: a reply was broken off."""

    def __init__(self):
        self.scripts: dict[str, list] = {}
        self.bodies: list[dict] = []
        self.go = threading.Event()
        self.gone = threading.Event()
        self.key = ""
        self.app = FastAPI()
        self.app.include_router(router)
        self.app.add_exception_handler(ApiError, _told)
        self.app.middleware("http")(self._watch)
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/chat/completions")(self._chat)
        self.address = ""

    def reset(self) -> None:
        """As new, for the next test."""
        self.scripts, self.key = {}, ""
        self.bodies.clear()
        self.go.clear()
        self.gone.clear()

    async def _watch(self, request: Request, answer):
        asks = request.url.path.startswith("/v1/")
        if asks and self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no key"}}, 401)
        return await answer(request)

    async def _models(self) -> dict:
        return {"object": "list", "data": [{"id": "nano", "object": "model"}, {"id": "V4-Flash"}]}

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        last = body["messages"][-1]
        steps = self.scripts.get(last["content"], [say("A reply to " + str(last["content"]))])
        if isinstance(steps[0], int):
            status, message, *headers = steps
            error = {"error": {"message": message, "type": "invalid_request_error"}}
            return JSONResponse(error, status, headers=headers[0] if headers else None)
        return StreamingResponse(self._stream(steps), media_type="text/event-stream")

    async def _stream(self, steps) -> AsyncIterator[str]:
        finish, whole = "stop", False
        yield ": keep-alive\n\n"
        try:
            yield _chunk({"role": "assistant", "content": "", "reasoning_content": None})
            for step in steps:
                if step == WAIT:
                    end = time.monotonic() + PATIENCE
                    while not self.go.is_set() and time.monotonic() < end:
                        await asyncio.sleep(0.02)
                elif isinstance(step, dict):
                    yield _chunk(step)
                else:
                    finish = step[0]
            whole = True
            if finish == "break":
                return
            if finish == "error":
                yield f"data: {json.dumps({'error': {'message': 'the engine failed'}})}\n\n"
                return
            yield _chunk({"content": "", "reasoning_content": None}, finish)
            yield f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            if not whole:
                self.gone.set()

    def user_texts(self, i=-1) -> list[str]:
        return [m["content"] for m in self.bodies[i]["messages"] if m["role"] == "user"]


def _told(request, error):
    return JSONResponse(error.shaped(request.url.path), error.status, error.headers)


def _chunk(delta, finish=None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "r", "object": "chat.completion.chunk", "created": 0, "model": "nano"}
    return f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n"


@contextmanager
def serving(port: int = 0) -> Iterator[Scripted]:
    """A `Scripted` that answers on a loopback port; stopped on leaving."""
    scripted = Scripted()
    config = uvicorn.Config(scripted.app, port=port, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    scripted.address = f"http://{host}:{port}"
    yield scripted
    scripted.go.set()
    server.should_exit = True
    thread.join(30)
