"""What the OpenAPI document says of each path."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, NamedTuple

VERSION = version("dsv4")
ABOUT = "OpenAI's Chat Completions, Completions and Responses, and Anthropic's Messages."

Schema = dict[str, Any]


class Operation(NamedTuple):
    """One path: its name, what it does, its answers, and its body."""

    name: str
    summary: str
    responses: dict[int | str, dict[str, Any]]
    extra: dict[str, Any] | None = None


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _body(schema: Schema) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": _json(schema)}}


TEXT_: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
FLAG: Schema = {"type": ["boolean", "null"]}
ANY: Schema = {}
MAYBE: Schema = {"type": ["string", "null"]}
OBJECT: Schema = {"type": "object"}
ERROR = _object(
    ("error",),
    error=_object(
        ("message", "type", "param", "code"), message=TEXT_, type=TEXT_, param=MAYBE, code=MAYBE
    ),
)
ERROR_OF_MESSAGES = _object(
    ("type", "error"),
    type={"const": "error"},
    error=_object(("type", "message"), type=TEXT_, message=TEXT_),
)
_REASONS = {
    400: "The request is wrong.",
    401: "The API key is missing or wrong.",
    403: "The Host or Origin is not allowed.",
    408: "The body did not come.",
    413: "The body is too large.",
    429: "The server is full: try again after Retry-After seconds.",
    500: "The server failed.",
    503: "The server is shutting down.",
}


def _answers(
    schema: Schema, error: Schema = ERROR, stream: bool = False, *more: int
) -> dict[int | str, dict[str, Any]]:
    content = _json(schema)
    if stream:
        content["text/event-stream"] = {}  # its events are those of the API
    out: dict[int | str, dict[str, Any]] = {200: {"description": "Done.", "content": content}}
    for status, why in _REASONS.items():
        out[status] = {"description": why, "content": _json(error)}
    for status in more:
        out[status] = {"description": "There is none.", "content": _json(error)}
    return out


_SAMPLED: dict[str, Schema] = {
    "model": TEXT_,
    "max_tokens": {"type": ["integer", "null"], "minimum": 0},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"type": ["integer", "null"], "minimum": 0},
    "min_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "n": {"type": ["integer", "null"], "minimum": 1},
    "seed": {"type": ["integer", "null"], "minimum": 0},
    "stop": _either({"type": "null"}, TEXT_, _list(TEXT_)),
    "stream": FLAG,
    "stream_options": {"type": ["object", "null"]},
    "presence_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
    "repetition_penalty": {"type": ["number", "null"], "minimum": 0.01, "maximum": 100},
    "logit_bias": {"type": ["object", "null"]},
    "stop_token_ids": {"type": ["array", "null"], "items": INTEGER},
}
_EFFORT: Schema = {
    "enum": [None, "none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max"]
}
_THINKING: Schema = {
    "type": ["object", "null"],
    "properties": {"type": {"enum": ["enabled", "adaptive", "disabled"]}},
    "required": ["type"],
}
_USAGE = _object(
    ("prompt_tokens", "completion_tokens", "total_tokens"),
    prompt_tokens=INTEGER,
    completion_tokens=INTEGER,
    total_tokens=INTEGER,
    prompt_tokens_details=OBJECT,
    completion_tokens_details=OBJECT,
    prompt_cache_hit_tokens=INTEGER,
    prompt_cache_miss_tokens=INTEGER,
)
_CHOSEN: dict[str, Schema] = {
    "id": TEXT_,
    "created": INTEGER,
    "model": TEXT_,
    "usage": _USAGE,
    "dsv4": OBJECT,
}

CHAT = Operation(
    "chat_completions",
    "Answer a conversation (Chat Completions).",
    _answers(
        _object(
            ("id", "object", "created", "model", "choices", "usage"),
            object={"const": "chat.completion"},
            choices=_list(
                _object(
                    ("index", "message", "finish_reason"),
                    index=INTEGER,
                    message=_object(("role", "content"), role=TEXT_, content=MAYBE),
                    logprobs={"type": ["object", "null"]},
                    finish_reason={"enum": ["stop", "length", "tool_calls"]},
                )
            ),
            **_CHOSEN,
        ),
        ERROR,
        True,
    ),
    _body(
        _object(
            ("model", "messages"),
            **_SAMPLED,
            messages={**_list(OBJECT), "minItems": 1},
            thinking=_THINKING,
            reasoning_effort=_EFFORT,
            tools={"type": ["array", "null"], "items": OBJECT},
            tool_choice=ANY,
            parallel_tool_calls=FLAG,
            response_format={"type": ["object", "null"]},
            max_completion_tokens={"type": ["integer", "null"]},
            logprobs=FLAG,
            top_logprobs={"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        )
    ),
)
TEXT = Operation(
    "completions",
    "Continue texts or ids, or fill a gap (Completions).",
    _answers(
        _object(
            ("id", "object", "created", "model", "choices", "usage"),
            object={"const": "text_completion"},
            choices=_list(
                _object(
                    ("index", "text", "finish_reason"),
                    index=INTEGER,
                    text=TEXT_,
                    logprobs={"type": ["object", "null"]},
                    finish_reason={"enum": ["stop", "length"]},
                )
            ),
            **_CHOSEN,
        ),
        ERROR,
        True,
    ),
    _body(
        _object(
            ("model", "prompt"),
            **_SAMPLED,
            prompt=_either(TEXT_, _list(TEXT_), _list(INTEGER), _list(_list(INTEGER))),
            suffix=MAYBE,
            echo=FLAG,
            return_token_ids=FLAG,
            return_tokens_as_token_ids=FLAG,
            response_format={"type": ["object", "null"]},
            dsv4={"type": ["object", "null"]},
            ignore_eos=FLAG,
            best_of={"type": ["integer", "null"]},
            logprobs={"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        )
    ),
)
RESPONSES = Operation(
    "responses",
    "Answer items (Responses).",
    _answers(
        _object(
            ("id", "object", "created_at", "status", "model", "output", "usage"),
            id=TEXT_,
            object={"const": "response"},
            created_at=INTEGER,
            status=TEXT_,
            model=TEXT_,
            output=_list(OBJECT),
            usage=OBJECT,
        ),
        ERROR,
        True,
        404,
    ),
    _body(
        _object(
            ("model",),
            model=TEXT_,
            input=_either({"type": "null"}, TEXT_, _list(OBJECT)),
            instructions=MAYBE,
            previous_response_id=MAYBE,
            store=FLAG,
            max_output_tokens={"type": ["integer", "null"], "minimum": 1},
            reasoning={"type": ["object", "null"]},
            temperature=_SAMPLED["temperature"],
            top_p=_SAMPLED["top_p"],
            text={"type": ["object", "null"]},
            tools={"type": ["array", "null"], "items": OBJECT},
            tool_choice=ANY,
            stream=_SAMPLED["stream"],
            top_logprobs={"type": ["integer", "null"], "minimum": 0, "maximum": 20},
        )
    ),
)
_ASKED: dict[str, Schema] = {
    "model": TEXT_,
    "messages": {**_list(OBJECT), "minItems": 1},
    "system": _either({"type": "null"}, TEXT_, _list(OBJECT)),
    "tools": {"type": ["array", "null"], "items": OBJECT},
    "tool_choice": {"type": ["object", "null"]},
    "thinking": _THINKING,
    "output_config": {"type": ["object", "null"], "properties": {"effort": _EFFORT}},
}
MESSAGES = Operation(
    "messages",
    "Answer a conversation (Messages).",
    _answers(
        _object(
            ("id", "type", "role", "model", "content", "stop_reason", "usage"),
            id=TEXT_,
            type={"const": "message"},
            role={"const": "assistant"},
            model=TEXT_,
            content=_list(OBJECT),
            stop_reason={"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
            stop_sequence=MAYBE,
            usage=OBJECT,
        ),
        ERROR_OF_MESSAGES,
        True,
    ),
    _body(
        _object(
            ("model", "messages", "max_tokens"),
            **_ASKED,
            max_tokens={"type": "integer", "minimum": 1},
            temperature=_SAMPLED["temperature"],
            top_p=_SAMPLED["top_p"],
            top_k=_SAMPLED["top_k"],
            stop_sequences={"type": ["array", "null"], "items": TEXT_},
            stream=_SAMPLED["stream"],
        )
    ),
)
COUNT = Operation(
    "count_tokens",
    "Count the tokens of a Messages request.",
    _answers(_object(("input_tokens",), input_tokens=INTEGER), ERROR_OF_MESSAGES),
    _body(_object(("model", "messages"), **_ASKED)),
)
_MODEL = _object(("id", "object"), id=TEXT_, object={"const": "model"})
_MODELS = _object(("object", "data"), object={"const": "list"}, data=_list(_MODEL))
LIST_MODELS = Operation("list_models", "The models.", _answers(_MODELS))
ONE_MODEL = Operation("model", "One model.", _answers(_MODEL, ERROR, False, 404))
MODELS_OF_MESSAGES = LIST_MODELS._replace(responses=_answers(_MODELS, ERROR_OF_MESSAGES))
MODEL_OF_MESSAGES = ONE_MODEL._replace(responses=_answers(_MODEL, ERROR_OF_MESSAGES, False, 404))
RESPONSE = Operation("response", "A stored response.", _answers(OBJECT, ERROR, False, 404))
FORGET = Operation("forget", "Forget a stored response.", _answers(OBJECT, ERROR, False, 404))
TOKENIZE = Operation(
    "tokenize",
    "Text, or the prompt of messages, to ids.",
    _answers(_object(("count", "tokens"), count=INTEGER, tokens=_list(INTEGER))),
    _body(
        _object(
            (),
            prompt=MAYBE,
            content=MAYBE,
            messages={"type": ["array", "null"], "items": OBJECT},
            add_special_tokens=FLAG,
            return_token_strs=FLAG,
        )
    ),
)
DETOKENIZE = Operation(
    "detokenize",
    "Ids to text.",
    _answers(_object(("prompt",), prompt=TEXT_)),
    _body(_object(("tokens",), tokens=_list({"type": "integer", "minimum": 0}))),
)
TOKENIZER_INFO = Operation("tokenizer_info", "The tokenizer.", _answers(OBJECT))
HEALTH = Operation(
    "health",
    "Whether the server, and one backend at least, is there.",
    _answers(OBJECT) | {503: {"description": "No backend is live.", "content": _json(OBJECT)}},
)
METRICS = Operation(
    "metrics",
    "Numbers for Prometheus.",
    {200: {"description": "Done.", "content": {"text/plain": {"schema": TEXT_}}}},
)
