"""Prompts → continuations: a prompt is fed in pieces, and only its last token gets logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dsv4.interrupt import Interrupted
from dsv4.model.cache import Cache
from dsv4.model.transformer import Transformer
from dsv4.protocol.stop import StopMatcher
from dsv4.sampling import Sampling, sample
from dsv4.tokenizer import Tokenizer

PREFILL = 512  # prompt tokens fed at a time: what a native pass takes, and little memory

Finish = Literal["stop", "length", "interrupted"]


@dataclass
class Completion:
    """What was generated after one prompt: its ids (without EOS), its text, and why it ended."""

    ids: list[int]
    text: str
    finish_reason: Finish

    @property
    def tokens(self) -> int:
        """How many there are."""
        return len(self.ids)


@torch.inference_mode()
def prefill(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    cache: Cache,
    interrupted: Callable[[], bool] = lambda: False,
    read: Callable[[Tensor, Tensor, Tensor | None, list[int]], None] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Append prompts of any lengths to the cache; logits of each one's last token: [b, vocab].

    `read`, a drafter's, is told of each piece (see speculate.py), `progress` how many tokens of the
    longest prompt are read, and of how many.
    Raises ValueError, before anything is computed, for an empty prompt or one past the context, and
    Interrupted between two pieces when `interrupted` says so.
    """
    context = model.config.max_position_embeddings
    for seen, prompt in zip(cache.lengths, prompts, strict=True):
        if not prompt:
            raise ValueError("a prompt has no tokens: give it some text")
        if seen + len(prompt) > context:
            raise ValueError(
                f"prompt has {seen + len(prompt)} tokens, the context is {context}: shorten it"
            )
    longest = max(len(prompt) for prompt in prompts)
    padded = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    last: list[Tensor | None] = [None] * len(prompts)
    for first in range(0, longest, PREFILL):
        if interrupted():
            raise Interrupted
        piece = padded[:, first : first + PREFILL].to(model.device)
        lengths = [min(max(len(p) - first, 0), piece.shape[1]) for p in prompts]
        streams, targets = model.streams_and_targets(piece, cache, lengths)
        if read is not None:
            read(piece, streams, targets, lengths)
        for b, prompt in enumerate(prompts):
            if first < len(prompt) <= first + PREFILL:
                last[b] = streams[b, len(prompt) - first - 1]
        progress(min(first + PREFILL, longest), longest)
    ends = torch.stack([row for row in last if row is not None]).unsqueeze(1)  # [b, 1, hc, d]
    return model.logits(ends).squeeze(1)


@torch.inference_mode()
def token_ids(
    model: Transformer, logits: Tensor, cache: Cache, sampling: Sampling
) -> Iterator[list[int | None]]:
    """Sample from logits [b, vocab], step by step: one id per sequence, None once it has ended.

    Ends when all have: by EOS, by `max_tokens`, or by the end of the context.
    """
    generators = [sampling.generator(b) for b in range(cache.batch)]
    alive = [True] * cache.batch
    context = model.config.max_position_embeddings
    for _ in range(sampling.max_tokens):
        rows = [b for b in range(cache.batch) if alive[b]]
        drawn = sample(logits[rows], [sampling] * len(rows), [generators[b] for b in rows])
        ids: list[int | None] = [None] * cache.batch
        for b, token in zip(rows, drawn, strict=True):
            ids[b], alive[b] = token, token != model.config.eos_token_id
        yield ids
        alive = [a and length < context for a, length in zip(alive, cache.lengths, strict=True)]
        if not any(alive):
            return
        column = torch.tensor([[i or 0] for i in ids], device=model.device)
        lengths = None if all(alive) else [int(a) for a in alive]  # the ended ones add nothing
        logits = model(column, cache, lengths)[:, -1]


class TextReader:
    """The text of ids as they come, up to a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: str | Sequence[str]):
        self._stream, self._matcher = tokenizer.stream(), StopMatcher(stop)

    @property
    def stopped(self) -> bool:
        """A stop string was met."""
        return self._matcher.matched is not None

    def push(self, token: int) -> str:
        """The text that is certain after one more id."""
        return self._matcher.push(self._stream.push(token))

    def finish(self) -> str:
        """The rest."""
        return self._matcher.push(self._stream.finish()) + self._matcher.finish()


class Reply:
    """One sequence being generated: iterate for pieces of text; then `completion` is whole.

    `ids()` in place of that gives ids, for readers of their own; text and stop strings are theirs.
    """

    def __init__(
        self,
        model: Transformer,
        prompt: Sequence[int],
        tokenizer: Tokenizer,
        sampling: Sampling,
        *,
        cache: Cache | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.cache = model.new_cache(1) if cache is None else cache
        self.prompt, self.interrupted, self.progress = prompt, interrupted, progress
        self.completion = Completion([], "", "length")

    def ids(self) -> Iterator[int]:
        """The ids as they are drawn, without EOS."""
        done = self.completion
        try:
            logits = prefill(
                self.model,
                [self.prompt],
                self.cache,
                self.interrupted,
                progress=self.progress,
            )
        except Interrupted:
            done.finish_reason = "interrupted"
            return
        for (token,) in token_ids(self.model, logits, self.cache, self.sampling):
            if token == self.model.config.eos_token_id:
                done.finish_reason = "stop"
                return
            assert token is not None
            done.ids.append(token)
            yield token
            if self.interrupted():
                done.finish_reason = "interrupted"
                return

    def __iter__(self) -> Iterator[str]:
        """Pieces of text as soon as they are certain; ids are in `completion.ids` by then."""
        text = TextReader(self.tokenizer, self.sampling.stop)
        for token in self.ids():
            yield self._passed(text.push(token))
            if text.stopped:
                self.completion.finish_reason = "stop"
                return
        yield self._passed(text.finish())

    def _passed(self, piece: str) -> str:
        self.completion.text += piece
        return piece


def generate(
    model: Transformer,
    prompts: Any,
    tokenizer: Tokenizer | None = None,
    sampling: Sampling | None = None,
    **options: Any,
) -> Completion | list[Completion]:
    """Continue one prompt or a batch of them.

    `prompts`: a text or a list of ids, or a list of either; texts need the tokenizer, and control
    tokens spelled in them are plain text. `options` are fields of Sampling (temperature=0, …).
    Returns a Completion, or a list of them for a list of prompts. Stop strings need a tokenizer.
    Raises ValueError for a tokenizer of another vocabulary and for prompts that `prefill` refuses.
    """
    sampling = replace(sampling or Sampling(), **options)
    prompts = prompts.tolist() if isinstance(prompts, Tensor) else prompts
    single = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    if tokenizer is not None:
        tokenizer.check_fits(model.config.vocab_size)
    batch = [_ids(p, tokenizer, model) for p in ([prompts] if single else prompts)]
    if not batch:
        return []
    if sampling.stop and tokenizer is None:
        raise ValueError("stop strings are matched in text: pass the tokenizer too")
    cache = model.new_cache(len(batch))
    logits = prefill(model, batch, cache)
    done = [Completion([], "", "length") for _ in batch]
    texts = [TextReader(tokenizer, sampling.stop) for _ in batch if tokenizer is not None]
    for ids in token_ids(model, logits, cache, sampling):
        for b, (one, token) in enumerate(zip(done, ids, strict=True)):
            if token == model.config.eos_token_id:
                one.finish_reason = "stop"
            elif token is not None and one.finish_reason == "length":
                one.ids.append(token)
                if texts:
                    one.text += texts[b].push(token)
                    one.finish_reason = "stop" if texts[b].stopped else "length"
        if all(one.finish_reason == "stop" for one in done):
            break
    for one, text in zip(done, texts, strict=False):
        one.text += text.finish()
    return done[0] if single else done


def _ids(prompt: Any, tokenizer: Tokenizer | None, model: Transformer) -> list[int]:
    """The ids of a prompt; a text begins with BOS."""
    if not isinstance(prompt, str):
        return [int(token) for token in prompt]
    if tokenizer is None:
        raise ValueError("the prompt is text: pass the tokenizer too, or ids")
    return [model.config.bos_token_id, *tokenizer.encode(prompt)]
