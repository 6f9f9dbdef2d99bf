"""What is done to documents that are trained on; held-out ones are left as they are.

Infilling, on a share of the prose, so that a model learns to write into the middle of a text:
    BOS <fim begin> prefix <fim hole> suffix <fim end> middle EOS
Token splitting, on a share of the tokens like `.\\n\\n`: punctuation and line break apart, since a
prompt that ends in the bare sign would otherwise look like nothing that was trained on
(DeepSeek-V3 report, section 4.1). Both follow from document and seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dsv4.data.document import Document, held_out, ids_of, prose, text_bytes
from dsv4.protocol import Segment
from dsv4.tokenizer import Tokenizer

FIM_BEGIN, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"
_PUNCTUATED = re.compile(r"( ?(?:[^\w\s]|_)+)([\r\n]+)")


@dataclass(frozen=True)
class Augment:
    """The shares of prose that becomes an infilling task, and of tokens that are split."""

    fim: float = 0.1
    split: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("fim", "split"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be a share, 0 to 1")


NOTHING = Augment(fim=0, split=0)


@dataclass(frozen=True)
class Encoded:
    """The ids of a document, the bytes of its text, and whether it is held out."""

    ids: list[int]
    nbytes: int
    held_out: bool


class Encoder:
    """Documents → ids."""

    def __init__(self, tokenizer: Tokenizer, augment: Augment):
        self.tokenizer, self.augment = tokenizer, augment
        self._pieces: dict[int, tuple[str, ...]] = {}

    def __call__(self, document: Document) -> Encoded:
        """Raises DataError, with the document's place, for text that no tokenizer takes."""
        digest, segments = document.digest(), document.segments()
        if held_out(digest):
            ids = ids_of(document, segments, self.tokenizer)
            return Encoded(ids, text_bytes(segments), True)
        rng = random.Random(f"{self.augment.seed} {digest.hex()}")
        if rng.random() < self.augment.fim and not document.messages and document.text:
            segments = infilling(document.text, rng)
        ids = ids_of(document, segments, self.tokenizer)
        return Encoded(self.split(ids, rng), text_bytes(segments), False)

    def split(self, ids: Sequence[int], rng: random.Random) -> list[int]:
        """Ids of the same text, some tokens of punctuation and line break taken apart."""
        out: list[int] = []
        for token in ids:
            pieces = self._apart(token)
            if pieces and rng.random() < self.augment.split:
                for piece in pieces:
                    out += self.tokenizer.encode(piece)
            else:
                out.append(token)
        return out

    def _apart(self, token: int) -> tuple[str, ...]:
        """Punctuation and line break of a token that is both; nothing of any other."""
        if token not in self._pieces:
            control = self.tokenizer.control_text(token) is not None
            text = self.tokenizer.token_bytes(token).decode("utf-8", "replace")
            found = None if control or "\ufffd" in text else _PUNCTUATED.fullmatch(text)
            self._pieces[token] = found.groups() if found else ()
        return self._pieces[token]


def infilling(text: str, rng: random.Random) -> list[Segment]:
    """The text with a hole, then what belongs there: cut at two places drawn evenly."""
    first, last = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    pieces = ((FIM_BEGIN, text[:first]), (FIM_HOLE, text[last:]), (FIM_END, text[first:last]))
    inner = ((Segment(token, True), Segment(piece, False)) for token, piece in pieces)
    return prose(*(segment for pair in inner for segment in pair))
