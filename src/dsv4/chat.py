"""A dialogue with a model: history, effort, and a cache that is kept from turn to turn.

Only what the new prompt adds to the cached ids is prefilled. Where the protocol rewrites the past
(the reasoning of earlier turns is dropped) the cache steps back, or begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from dsv4.generation import Completion, Reply, Sampling
from dsv4.model.transformer import Transformer
from dsv4.protocol.dialogue import STRINGS, Effort, Turn, dialogue_segments
from dsv4.tokenizer import Tokenizer


class Piece(NamedTuple):
    """A piece of a reply as it arrives."""

    kind: Literal["reasoning", "content"]
    text: str


class Chat:
    """Holds the turns and answers the next one."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, sampling: Sampling):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.effort: Effort = "none"
        self.turns: list[Turn] = []
        self.reset()

    def reset(self) -> None:
        """Forget the dialogue."""
        self.turns = []
        self.cache, self.cached = self.model.new_cache(1), list[int]()

    def ask(self, text: str, interrupted: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
        """Say `text`; the reply's pieces. What was said is kept even if it was interrupted.

        Raises ValueError, with the dialogue unchanged, if the prompt exceeds the context.
        """
        turns = [*self.turns, Turn("user", text)]
        ids = self._encode(turns)
        reply = Reply(
            self.model,
            self._uncached(ids),
            self.tokenizer,
            self.sampling,
            cache=self.cache,
            interrupted=interrupted,
        )
        said = {"reasoning": "", "content": ""}
        try:
            for piece in self._pieces(reply):
                said[piece.kind] += piece.text
                yield piece
        except BaseException:  # the cache may be between two states
            self.cache, self.cached = self.model.new_cache(1), []
            raise
        self._remember(ids, reply.completion)
        self.turns = [*turns, Turn("assistant", said["content"], said["reasoning"])]

    def _encode(self, turns: Sequence[Turn]) -> list[int]:
        ids: list[int] = []
        for segment in dialogue_segments(turns, self.effort):
            if segment.control:
                ids.append(self.tokenizer.token_id(segment.text))
            else:
                ids += self.tokenizer.encode(segment.text)
        context = self.model.config.max_position_embeddings
        if len(ids) >= context:
            raise ValueError(
                f"the dialogue has {len(ids)} tokens, the context is {context}: /reset"
            )
        return ids

    def _uncached(self, ids: list[int]) -> list[int]:
        """What is left to prefill once the cache is back at the longest common beginning."""
        common = 0
        for new, old in zip(ids[:-1], self.cached, strict=False):  # one id at least is fed
            if new != old:
                break
            common += 1
        try:
            self.cache.truncate(common)
        except ValueError:  # further back than the cache keeps state for
            self.cache, common = self.model.new_cache(1), 0
        self.cached = self.cached[:common]
        return ids[common:]

    def _remember(self, prompt: list[int], completion: Completion) -> None:
        self.cached = [*prompt, *completion.ids][: self.cache.lengths[0]]

    def _pieces(self, reply: Reply) -> Iterator[Piece]:
        kind: Literal["reasoning", "content"] = "content" if self.effort == "none" else "reasoning"
        end = STRINGS["end_think"]
        for text in reply:
            if kind == "reasoning" and end in text:
                before, text = text.split(end, 1)
                yield Piece(kind, before)
                kind = "content"
            if text:
                yield Piece(kind, text)
