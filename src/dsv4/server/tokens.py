"""Text ↔ ids over HTTP, as vLLM's clients and lm-eval ask for it (llama.cpp's names work, too)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import fields, from_openai
from dsv4.server.completions import BOS
from dsv4.server.within import Within

if TYPE_CHECKING:
    from dsv4.server.service import Service

EOS = "<｜end▁of▁sentence｜>"
LONG = 1 << 20  # tokens of a text that may be counted anywhere


class TokensApi:
    """What a service's tokenizer says."""

    def __init__(self, service: Service):
        self._service, self._tokenizer = service, service.tokenizer

    def tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A `prompt` (or `content`), or the prompt of `messages`."""
        within = Within(self._tokenizer, max(self._service.engine.context, LONG))
        if body.get("messages") is not None:
            options = replace(self._service.options, models=None)
            request = from_openai({**body, "n": None}, options)
            ids = request.ids(within, spelt=self._service.spellings.of)
        else:
            key = "prompt" if body.get("prompt") is not None else "content"
            text = fields.needed(body, key)
            ids = within.encode(text, special=True)
            if fields.flag(body, "add_special_tokens") is not False and key == "prompt":
                bos = self._tokenizer.token_id(BOS)
                ids = ids if ids[:1] == [bos] else [bos, *ids]
        out = {"count": len(ids), "max_model_len": self._service.engine.context, "tokens": ids}
        if fields.flag(body, "return_token_strs"):
            backend = self._tokenizer.backend
            out["token_strs"] = [backend.id_to_token(token) for token in ids]
        return out

    def detokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`tokens` as text."""
        ids = fields.items(body, "tokens")
        largest = self._tokenizer.largest_id
        for number, token in enumerate(ids):
            if type(token) is not int or not 0 <= token <= largest:
                raise fields.wrong(token, f"tokens[{number}]", f"an id from 0 to {largest}")
        if body.get("tokens") is None:
            raise RequestError("is missing", "tokens")
        text = self._tokenizer.decode(ids)
        return {"prompt": text, "content": text}

    def info(self) -> dict[str, Any]:
        """What a client needs to know of the tokenizer."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": EOS,
            "add_bos_token": True,
            "add_eos_token": False,
            "vocab_size": self._tokenizer.vocab_size,
            "model_max_length": self._service.engine.context,
            "chat_template": None,
        }
