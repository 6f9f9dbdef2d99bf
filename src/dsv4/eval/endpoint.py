"""A subject behind a URL: OpenAI's Chat Completions and Completions, ours, vLLM's or another's."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from dsv4.eval.subject import (
    Ask,
    NoTokensError,
    Reply,
    Score,
    SubjectError,
    TooLongError,
    added,
    read,
)
from dsv4.protocol.constants import BOS
from dsv4.remote.http import (
    headers,
    is_loopback,
    message_of,
    reason,
    refusal,
    retry_after,
    shown,
)

SILENCE = 3600.0  # seconds that a whole reply may take
TRIES = 6
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
PATIENCE = 60.0  # seconds between two tries at most
TOO_LONG = re.compile(
    r"context.{0,3}(?:length|size|window)|maximum.{0,20}tokens|prompt is too long|too many tokens",
    re.IGNORECASE,
)
LETTERS = 3  # bytes a token at least, where nobody counts


class UrlSubject:
    """Asks the server at `url` (see `base_url`); `model`: by default the first that it serves.

    Raises SubjectError where it does not answer.
    """

    def __init__(self, url: str, *, model: str | None = None, key: str | None = None):
        self._url = url
        self._client = httpx.Client(
            headers=headers(key),
            timeout=httpx.Timeout(SILENCE, connect=5.0),
            trust_env=not is_loopback(url),
            limits=httpx.Limits(max_connections=None),
        )
        self._context: int | None = None
        self._answered = False
        self._model = self._find(model)
        self._tokenizes: bool | None = None
        self._begin: list[int] | None = None

    @property
    def name(self) -> str:
        """See `Subject`."""
        return self._model

    @property
    def context(self) -> int | None:
        """See `Subject`."""
        return self._context

    def encode(self, text: str) -> list[int]:
        """See `Subject`. Raises SubjectError if the server has no /tokenize."""
        found = self._tokenize({"prompt": text, "add_special_tokens": False})
        if found is None:
            raise NoTokensError(
                f"{shown(self._url)} has no /tokenize, which likelihoods need: take dsv4 or vLLM"
            )
        return [int(token) for token in found["tokens"]]

    def count(self, ask: Ask) -> int:
        """See `Subject`; a bound from above where the server does not count."""
        if isinstance(ask.prompt, str):
            body: dict[str, Any] = {"prompt": ask.prompt}
        else:
            chat = ask.chat()
            body = {
                key: chat[key] for key in ("messages", "tools", "reasoning_effort") if key in chat
            }
        found = self._tokenize(body)
        if found is not None:
            return int(found["count"])
        return len(json.dumps(body, ensure_ascii=False).encode()) // LETTERS + 64

    def generate(self, ask: Ask) -> Reply:
        """See `Subject`."""
        if isinstance(ask.prompt, str):
            body = {"prompt": ask.prompt, "max_tokens": ask.max_tokens, "seed": ask.seed}
            body |= {"temperature": ask.temperature, "top_p": ask.top_p}
            if ask.stop:
                body["stop"] = list(ask.stop)
            found = self._post("/v1/completions", body)
            choice = _choice(found)
            return Reply(str(choice.get("text") or ""), "", (), _end(choice), *_usage(found))
        found = self._post("/v1/chat/completions", ask.chat())
        choice = _choice(found)
        said = choice.get("message") or {}
        thought = said.get("reasoning_content") or said.get("reasoning") or ""
        text, reasoning = read(said.get("content") or "", thought, ask.effort)
        if refused := said.get("refusal"):
            return Reply(str(refused), reasoning, (), "content_filter", *_usage(found))
        calls = [_call(call) for call in said.get("tool_calls") or ()]
        return Reply(text, reasoning, calls, _end(choice), *_usage(found))

    def score_ids(
        self, context: Sequence[int], continuation: Sequence[int], *, bos: bool = True
    ) -> Score:
        """See `Subject`."""
        begin = self._bos() if bos else []
        ids = [*context, *continuation]
        ids = ids if ids[:1] == begin else [*begin, *ids]
        body = {"prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0.0}
        arrays = _choice(self._post("/v1/completions", body)).get("logprobs") or {}
        own, tops = arrays.get("token_logprobs"), arrays.get("top_logprobs")
        if not isinstance(own, list) or not isinstance(tops, list) or len(own) < len(ids):
            raise SubjectError(
                f"{shown(self._url)} tells no log-probabilities of a prompt (echo with logprobs): "
                "take a server that does, such as dsv4 or vLLM"
            )
        first = max(len(ids) - len(continuation), len(begin))
        return added([(own[n], _likeliest(own[n], tops[n])) for n in range(first, len(ids))])

    def close(self) -> None:
        """See `Subject`."""
        self._client.close()

    # ---- the server --------------------------------------------------------------------------

    def _find(self, name: str | None) -> str:
        response = self._send("GET", "/v1/models", None)
        try:
            listed = json.loads(response.content)["data"] if response.is_success else []
            models = [one for one in listed if isinstance(one.get("id"), str)]
        except (ValueError, LookupError, TypeError, AttributeError):
            models = []
        found: Mapping[str, Any] = next((m for m in models if name in (None, m["id"])), {})
        if models and not found:
            names = ", ".join(one["id"] for one in models[:5])
            raise SubjectError(
                f"{shown(self._url)} has no model {name}: --model must be of {names}"
            )
        length = found.get("max_model_len")
        self._context = length if isinstance(length, int) else None
        if name is None and not found:
            said = "" if response.is_success else f" ({refusal(response)})"
            raise SubjectError(
                f"{shown(self._url)} names no model at /v1/models{said}: name one with --model, "
                "and its key with --api-key"
            )
        return name or str(found["id"])

    def _bos(self) -> list[int]:
        if self._begin is None:
            self._begin = self.encode(BOS)
        return self._begin if len(self._begin) == 1 else []

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if self._tokenizes is False:
            return None
        response = self._send("POST", "/tokenize", {"model": self._model} | body)
        self._tokenizes = response.is_success
        if not response.is_success:
            return None
        found = json.loads(response.content)
        if self._context is None and isinstance(found.get("max_model_len"), int):
            self._context = found["max_model_len"]
        return dict(found)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self._send("POST", path, {"model": self._model} | body)
        if not response.is_success:
            said = refusal(response)
            if response.status_code in (400, 413, 422) and TOO_LONG.search(said):
                raise TooLongError(said)
            raise SubjectError(f"{shown(self._url)} answers {said}")
        try:
            found = json.loads(response.content)
        except ValueError as error:
            raise SubjectError(f"{shown(self._url)} answers what is no JSON") from error
        if not isinstance(found, dict) or found.get("error"):
            raise SubjectError(f"{shown(self._url)}: {message_of(found) or 'it failed'}")
        return found

    def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        """The response, asked for again where the server is busy or was lost, or begins anew.

        Not after a silence: whoever did not answer for so long would be asked for hours."""
        for tries in range(1, TRIES + 1):
            try:
                response = self._client.request(method, self._url + path, json=body)
            except httpx.HTTPError as error:
                never = isinstance(error, httpx.ConnectError) and not self._answered
                silent = isinstance(error, httpx.ReadTimeout)
                if tries == TRIES or never or silent:
                    raise SubjectError(reason(error, self._url)) from error
                wait = float(tries)
            else:
                self._answered = True
                if response.status_code not in AGAIN or tries == TRIES:
                    return response
                wait = retry_after(response) * tries
            time.sleep(min(wait, PATIENCE))
        raise AssertionError


def _choice(found: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        choice = found["choices"][0]
    except (LookupError, TypeError) as error:
        raise SubjectError("the server answers what is no completion") from error
    return choice if isinstance(choice, Mapping) else {}


def _call(said: Any) -> dict[str, str]:
    try:
        function = said["function"]
        arguments = function["arguments"]
        shown = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return {"name": str(function["name"]), "arguments": shown}
    except (LookupError, TypeError) as error:
        raise SubjectError("the server answers what is no call of a tool") from error


def _end(choice: Mapping[str, Any]) -> str:
    return str(choice.get("finish_reason") or "stop")


def _usage(found: Mapping[str, Any]) -> tuple[int, int, int]:
    usage = found.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    cached = usage.get("prompt_cache_hit_tokens") or details.get("cached_tokens") or 0
    return usage.get("prompt_tokens") or 0, cached, usage.get("completion_tokens") or 0


def _likeliest(own: float | None, top: Mapping[str, float] | None) -> bool:
    """Of a token whose own stands among its alternatives, perhaps as the last."""
    return own is not None and top is not None and own == max(top.values(), default=own)
