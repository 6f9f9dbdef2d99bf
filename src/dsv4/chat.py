"""A dialogue with a model: history, effort, and a cache that is kept from turn to turn.

Only what the new prompt adds to the cached ids is prefilled. Where the protocol rewrites the past
(the reasoning of earlier turns is dropped) the cache steps back, or begins anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from dsv4.checkpoint.revision import effort_revision
from dsv4.generation import Completion, Reply
from dsv4.model.transformer import Transformer
from dsv4.protocol.deltas import Content, Delta, Reasoning
from dsv4.protocol.effort import resolve_effort
from dsv4.protocol.encode import Message, encode_ids
from dsv4.protocol.stream import StreamParser
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer, TokenStream

Piece = Reasoning | Content


class BusyError(RuntimeError):
    """A Chat was used while a reply of it was being read."""


class Chat:
    """Holds the messages and answers the next one.

    `effort` is a word of `resolve_effort`, `system` a message that opens every dialogue, `revision`
    that of the effort texts, by default the checkpoint's own.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        sampling: Sampling,
        *,
        effort: str = "none",
        system: str | None = None,
        revision: str | None = None,
    ):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.effort, self.system = effort, system
        self.revision = effort_revision(model.config, revision)
        self._answering = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget the dialogue. Raises BusyError while a reply is being read."""
        with self._alone():
            self.messages: list[Message] = []
            if self.system:
                self.messages.append({"role": "system", "content": self.system})
            self.cache, self.cached = self.model.new_cache(1), list[int]()
            self.completion = Completion([], "", "stop")

    def ask(
        self,
        text: str,
        interrupted: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Piece]:
        """Say `text`; the reply's pieces. Then `completion` tells why it ended.

        `progress` hears how many tokens of what is new in the prompt are read, and of how many.

        What was said is kept even if it was interrupted; an exchange in which nothing was said is
        not. Raises ValueError, with the dialogue unchanged, if the prompt exceeds the context, and
        BusyError while another reply of this dialogue is being read.
        """
        with self._alone():
            messages = [*self.messages, {"role": "user", "content": text}]
            ids = self._encode(messages)
            reply = Reply(
                self.model,
                self._uncached(ids),
                self.tokenizer,
                self.sampling,
                cache=self.cache,
                interrupted=interrupted,
                progress=progress,
            )
            parser = self._parser()
            try:
                yield from _pieces(parser, reply, self.tokenizer.stream())
            except BaseException:  # the cache may be between two states
                self.cache, self.cached = self.model.new_cache(1), []
                raise
            self.completion = reply.completion
            self._remember(ids, reply.completion)
            if reply.completion.ids or reply.completion.finish_reason == "stop":
                self.messages = [*messages, parser.finish()]

    @property
    def context(self) -> int:
        """Tokens that prompt and reply can have."""
        return self.model.config.max_position_embeddings

    @property
    def max_tokens(self) -> int:
        """Of a reply."""
        return self.sampling.max_tokens

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._answering.acquire(blocking=False):
            raise BusyError(
                "this dialogue is being answered: read that reply to its end, or close it, before "
                "the next one; two dialogues at once are two Chats"
            )
        try:
            yield
        finally:
            self._answering.release()

    def _parser(self) -> StreamParser:
        mode, _ = resolve_effort(self.effort, self.revision)
        return StreamParser(mode, "tolerant", tools=[], stop=self.sampling.stop)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        ids = self._ids(messages)
        context = self.context
        if len(ids) >= context:
            opening = messages[:1] if self.system else []
            alone = len(self._ids([*opening, messages[-1]]))
            remedy = "reset the dialogue" if alone < context else "shorten the message"
            raise ValueError(
                f"the prompt has {len(ids)} tokens, the context is {context}: {remedy}"
            )
        return ids

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        mode, effort = resolve_effort(self.effort, self.revision)
        return encode_ids(
            messages, self.tokenizer, mode, reasoning_effort=effort, revision=self.revision
        )

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
