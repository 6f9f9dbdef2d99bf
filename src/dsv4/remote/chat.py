"""A dialogue with a server elsewhere, by OpenAI's Chat Completions: history here, the model there.

Reasoning is read as DeepSeek calls it (`reasoning_content`) and as others do (`reasoning`); a
server that has none, or that does not stream, is as good.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from dsv4.protocol.deltas import Content, Reasoning
from dsv4.remote.http import Events, headers, is_loopback, message_of, reason, refusal, shown

Piece = Reasoning | Content
LOOK = 0.05  # seconds between two looks whether somebody wants it to stop
SILENCE = 600.0  # seconds that a server may take for the next byte
OPTIONAL = ("stream_options", "reasoning_effort")  # what a server that refuses it is not asked for


class ServerError(OSError):
    """A server that does not answer as it should: in one line, with the remedy."""


@dataclass
class Said:
    """How the last reply ended; `tokens` where the server counts them."""

    finish_reason: str = "stop"
    tokens: int | None = None
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)

    def message(self) -> dict[str, str]:
        """What the history keeps; reasoning goes back to servers that tell it."""
        out = {"role": "assistant", "content": "".join(self.text)}
        return out | ({"reasoning_content": "".join(self.reasoning)} if self.reasoning else {})


class RemoteChat:
    """Holds the messages and asks for the next reply: see `chat.Chat`.

    `url`: of the server (`base_url`); `model`: its name there, by default the first that is served.
    `settings` are fields of the request. `effort` None leaves it to the server. Raises ServerError
    if the server does not answer.
    """

    revision = "2026-04"  # the words of effort are the same in all

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        effort: str | None = None,
        system: str | None = None,
        settings: Mapping[str, Any],
    ):
        self.url, self.effort, self.system = url, effort, system
        self.max_tokens: int = settings["max_tokens"]
        self._settings, self._headers = dict(settings), headers(key)
        self._left_out: set[str] = set()
        self.context: int | None = None
        self.model = self._find(model)
        self.reset()

    def reset(self) -> None:
        """Forget the dialogue."""
        self.messages: list[dict[str, str]] = []
        if self.system:
            self.messages.append({"role": "system", "content": self.system})
        self.completion = Said()

    def ask(
        self,
        text: str,
        interrupted: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Piece]:
        """Say `text`; the reply's pieces. Then `completion` tells why it ended.

        `progress` is never called: a server does not say how far it has read. What was said is kept
        even if it was interrupted. Raises ServerError, with the dialogue unchanged.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        said = Said(finish_reason="")
        for event in self._events(messages, interrupted):
            yield from self._read(event, said)
        if not said.finish_reason:
            said.finish_reason = "interrupted"
        self.completion = said
        if said.text or said.finish_reason in ("stop", "length"):
            self.messages = [*messages, said.message()]

    # ---- the server ------------------------------------------------------------------------

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(SILENCE, connect=5.0),
            trust_env=not is_loopback(self.url),
        )

    def _find(self, name: str | None) -> str:
        """The model's name at the server, which is there."""

        async def look() -> httpx.Response:
            async with self._client() as client:
                return await client.get(f"{self.url}/v1/models", timeout=30.0)

        try:
            response = asyncio.run(look())
            found = json.loads(response.content) if response.is_success else {}
            listed = [one for one in found["data"] if isinstance(one.get("id"), str)]
        except httpx.HTTPError as error:
            raise ServerError(reason(error, self.url)) from error
        except (ValueError, LookupError, TypeError, AttributeError):
            listed = []
        if not response.is_success and (name is None or response.status_code != 404):
            raise self._refused(response)
        model: Mapping[str, Any] = next((m for m in listed if name in (None, m["id"])), {})
        length = model.get("max_model_len")
        self.context = length if isinstance(length, int) else None
        if name is None and not model:
            raise ServerError(
                f"{shown(self.url)} names no model at /v1/models: name one, dsv4 chat NAME --url …"
            )
        return name or model["id"]

    def _body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        body = {"model": self.model, "messages": list(messages), "stream": True} | self._settings
        body["stream_options"] = {"include_usage": True}
        if self.effort is not None:
            body["reasoning_effort"] = self.effort
        return {key: value for key, value in body.items() if key not in self._left_out}

    def _events(
        self, messages: Sequence[Mapping[str, str]], interrupted: Callable[[], bool]
    ) -> Iterator[bytes]:
        """The data of the stream until it ends, or somebody wants it to: it is read in another
        thread, since a server may be silent for long."""
        inbox: SimpleQueue[bytes | Exception | None] = SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._listen(messages, inbox.put))

        def work() -> None:
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                pass
            except Exception as error:
                inbox.put(error)
            finally:
                loop.close()
                inbox.put(None)

        thread = threading.Thread(target=work, name="dsv4-chat", daemon=True)
        thread.start()
        try:
            while not interrupted():
                try:
                    event = inbox.get(timeout=LOOK)
                except Empty:
                    continue
                if event is None:
                    return
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(task.cancel)
            thread.join(5)

    async def _listen(
        self, messages: Sequence[Mapping[str, str]], put: Callable[[bytes], None]
    ) -> None:
        try:
            async with self._client() as client:
                while not await self._once(client, self._body(messages), put):
                    pass
        except httpx.HTTPError as error:
            raise ServerError(reason(error, self.url)) from error

    async def _once(
        self, client: httpx.AsyncClient, body: dict[str, Any], put: Callable[[bytes], None]
    ) -> bool:
        """One request; False if it is to be asked again, without a field that was refused."""
        path = f"{self.url}/v1/chat/completions"
        async with client.stream("POST", path, json=body) as response:
            if not response.is_success:
                await response.aread()
                if not self._leave_out(response, body):
                    raise self._refused(response)
                return False
            if "json" in response.headers.get("content-type", ""):
                put(await response.aread())
                return True
            events, last = Events(), b""
            async for data in response.aiter_bytes():
                for last in events.feed(data):
                    put(last)
            if last != b"[DONE]":
                put(b"")
        return True

    def _leave_out(self, response: httpx.Response, body: Mapping[str, Any]) -> bool:
        """Whether a field that the server refuses can be left out, from now on."""
        if response.status_code not in (400, 422):
            return False
        said = response.text
        for name in OPTIONAL:
            wanted = name == "reasoning_effort" and self.effort != "none"
            if name in body and name in said and not wanted:
                self._left_out.add(name)
                return True
        return False

    def _refused(self, response: httpx.Response) -> ServerError:
        remedy = ""
        if response.status_code in (401, 403):
            remedy = " (--api-key, or DSV4_API_KEY in the environment, is the key)"
        return ServerError(f"{shown(self.url)} answers {refusal(response)}{remedy}")

    # ---- what it says ----------------------------------------------------------------------

    def _read(self, event: bytes, said: Said) -> Iterator[Piece]:
        if event == b"[DONE]":
            said.finish_reason = said.finish_reason or "stop"
            return
        if not event:  # the end of a stream that had no last word
            if not said.finish_reason:
                raise ServerError(f"{shown(self.url)} broke off in the middle of the reply")
            return
        try:
            chunk = json.loads(event)
            usage = chunk.get("usage") or {}
            said.tokens = usage.get("completion_tokens", said.tokens)
            choice = (chunk.get("choices") or [{}])[0]
            delta = choice.get("delta") or choice.get("message") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            text, finish = delta.get("content"), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ServerError(f"{shown(self.url)} answers what is no completion") from error
        if chunk.get("error"):
            raise ServerError(f"{shown(self.url)}: {message_of(chunk) or 'it failed'}")
        if isinstance(thought, str) and thought:
            said.reasoning.append(thought)
            yield Reasoning(thought)
        if isinstance(text, str) and text:
            said.text.append(text)
            yield Content(text)
        said.finish_reason = finish or said.finish_reason
