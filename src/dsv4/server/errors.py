"""What a request ends in that cannot be answered: a status, and a body of the API's own shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dsv4.engine.request import EngineError, Finished, FullError, GrammarError, RemoteError
from dsv4.protocol.errors import ProtocolError, RequestError

_KINDS = {
    401: ("authentication_error", "invalid_api_key", "authentication_error"),
    403: ("permission_error", "forbidden", "permission_error"),
    404: ("not_found_error", "not_found", "not_found_error"),
    405: ("invalid_request_error", "method_not_allowed", "invalid_request_error"),
    408: ("invalid_request_error", "request_timeout", "timeout_error"),
    413: ("invalid_request_error", "request_too_large", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded", "rate_limit_error"),
    500: ("internal_error", "internal_error", "api_error"),
    503: ("service_unavailable", "service_unavailable", "overloaded_error"),
}
_WRONG = ("invalid_request_error", "invalid_request_error", "invalid_request_error")


class ApiError(Exception):
    """A status, what is wrong, and the field that is."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or _KINDS.get(status, _WRONG)[1]
        self.headers = {"Cache-Control": "no-store"}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        if close:
            self.headers["Connection"] = "close"

    def openai(self) -> dict[str, Any]:
        """OpenAI's and DeepSeek's shape."""
        kind = _KINDS.get(self.status, _WRONG)[0]
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def anthropic(self) -> dict[str, Any]:
        """Anthropic's shape."""
        kind = _KINDS.get(self.status, _WRONG)[2]
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def shaped(self, path: str) -> Mapping[str, Any]:
        """The shape of the API that `path` belongs to."""
        return self.anthropic() if is_anthropic(path) else self.openai()


def is_anthropic(path: str) -> bool:
    """Whether a path is one of the Messages API."""
    return path.startswith(("/v1/messages", "/anthropic/"))


def refused(error: Exception) -> ApiError:
    """What a client is told of an exception that met its request before anything was computed."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        long = "maximum context length" in error.reason
        code = "context_length_exceeded" if long else None
        return ApiError(400, str(error), error.path or None, code)
    if isinstance(error, FullError):
        return ApiError(429, str(error), retry_after=error.retry_after)
    if isinstance(error, RemoteError):
        return _of_remote(error)
    if isinstance(error, EngineError):
        return ApiError(503, str(error), retry_after=5)
    if isinstance(error, ProtocolError | ValueError):
        return ApiError(400, str(error))
    if isinstance(error, RecursionError):
        return ApiError(400, "the request is nested too deeply")
    raise error


def failed(end: Finished) -> ApiError:
    """What a client is told of a job that did not come to its end."""
    if end.reason == "cancelled":
        return ApiError(
            503, "the request was cancelled: the server is shutting down", retry_after=5
        )
    if isinstance(end.error, RemoteError):
        return _of_remote(end.error)
    if isinstance(end.error, GrammarError):  # it is the client's
        return ApiError(400, str(end.error))
    return ApiError(500, f"the request failed: {end.error or 'unknown reason'}")


def _of_remote(error: RemoteError) -> ApiError:
    long = error.status == 400 and "maximum context length" in str(error)
    code = "context_length_exceeded" if long else None
    return ApiError(error.status, str(error), code=code, retry_after=error.retry_after)
