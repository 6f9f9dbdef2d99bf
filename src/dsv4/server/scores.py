"""Log-probabilities in the forms of the APIs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dsv4.engine.request import Token
from dsv4.tokenizer import Tokenizer


def entry(tokenizer: Tokenizer, token: Token) -> dict[str, Any]:
    """One token with its alternatives, as Chat Completions and Responses have it."""
    tops = [_one(tokenizer, number, logprob) for number, logprob in token.top]
    return {**_one(tokenizer, token.id, token.logprob), "top_logprobs": tops}


def _one(tokenizer: Tokenizer, number: int, logprob: float | None) -> dict[str, Any]:
    data = tokenizer.token_bytes(number)
    text = data.decode("utf-8", "replace")
    return {"token": text, "logprob": finite(logprob), "bytes": list(data)}


def finite(logprob: float | None) -> float | None:
    """JSON has no infinity: a token that could not come has OpenAI's -9999."""
    return None if logprob is None else max(logprob, -9999.0)


def shown(tokenizer: Tokenizer, number: int) -> str:
    """A token as a text of its own: bytes that are no whole character are spelled out."""
    data = tokenizer.token_bytes(number)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class Legacy:
    """The four arrays of Completions, piece by piece; offsets go on from piece to piece.

    `named`: tokens are written as `token_id:N`, which tells apart those that look alike.
    """

    def __init__(self, tokenizer: Tokenizer, named: bool = False):
        self._text = tokenizer.stream()
        self._shown = (lambda n: f"token_id:{n}") if named else (lambda n: shown(tokenizer, n))
        self._offset = 0

    def add(self, tokens: Sequence[Token], generated: bool) -> dict[str, Any]:
        """The arrays of some tokens; control tokens that were generated are not in the text.

        A token itself is always among its alternatives.
        """
        out: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token in tokens:
            text = self._shown(token.id)
            out["tokens"].append(text)
            out["token_logprobs"].append(finite(token.logprob))
            out["top_logprobs"].append(_tops(self._shown, token, text))
            out["text_offset"].append(self._offset)
            for piece, control in self._text.pieces(token.id):
                self._offset += 0 if control and generated else len(piece)
        return out


def _tops(name: Callable[[int], str], token: Token, text: str) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    tops: dict[str, float | None] = {}
    for number, logprob in token.top:
        tops.setdefault(name(number), finite(logprob))  # the likelier of two alike
    tops.setdefault(text, finite(token.logprob))
    return tops
