"""A dialogue with a model: history, effort, and a cache that is kept from turn to turn.

Only what the new prompt adds to the cached ids is prefilled. Where the protocol rewrites the past
(the reasoning of earlier turns is dropped) the cache steps back, or begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from dsv4.generation import Completion, Reply
from dsv4.model.transformer import Transformer
from dsv4.protocol.deltas import Content, Delta, Reasoning
from dsv4.protocol.effort import resolve_effort
from dsv4.protocol.encode import Message, encode_ids
from dsv4.protocol.stream import StreamParser
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer, TokenStream

Piece = Reasoning | Content


class Chat:
    """Holds the messages and answers the next one. `effort` is a word of `resolve_effort`."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, sampling: Sampling):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.effort = "none"
        self.reset()

    def reset(self) -> None:
        """Forget the dialogue."""
        self.messages: list[Message] = []
        self.cache, self.cached = self.model.new_cache(1), list[int]()

    def ask(self, text: str, interrupted: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
        """Say `text`; the reply's pieces. What was said is kept even if it was interrupted.

        Raises ValueError, with the dialogue unchanged, if the prompt exceeds the context.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self._encode(messages)
        reply = Reply(
            self.model,
            self._uncached(ids),
            self.tokenizer,
            self.sampling,
            cache=self.cache,
            interrupted=interrupted,
        )
        parser = self._parser()
        try:
            yield from _pieces(parser, reply, self.tokenizer.stream())
        except BaseException:  # the cache may be between two states
            self.cache, self.cached = self.model.new_cache(1), []
            raise
        self._remember(ids, reply.completion)
        self.messages = [*messages, parser.finish()]

    def _parser(self) -> StreamParser:
        mode, _ = resolve_effort(self.effort)
        return StreamParser(mode, "tolerant", tools=[], stop=self.sampling.stop)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        mode, effort = resolve_effort(self.effort)
        ids = encode_ids(messages, self.tokenizer, mode, reasoning_effort=effort)
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


def _pieces(parser: StreamParser, reply: Reply, text: TokenStream) -> Iterator[Piece]:
    """Read by ids: what merely spells a control token is text. A stop string ends the reply."""
    done = reply.completion
    for token in reply.ids():
        for piece in text.pieces(token):
            done.text += piece[0]
            yield from _said(parser.feed(piece))
        if parser.stopped_by is not None:
            done.finish_reason = "stop"
            return
    if rest := text.finish():
        done.text += rest
        yield from _said(parser.feed((rest, False)))
    yield from _said(parser.close(stopped=done.finish_reason == "stop"))


def _said(deltas: Iterable[Delta]) -> Iterator[Piece]:
    return (delta for delta in deltas if isinstance(delta, Reasoning | Content))
