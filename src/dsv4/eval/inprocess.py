"""A subject that is an engine in this process: the server's path, without the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from dsv4.engine.request import EngineLike, Finished, FullError, Job, Token, Usage
from dsv4.eval.subject import Ask, Reply, Score, SubjectError, TooLongError, added
from dsv4.protocol.constants import BOS, DSML, END_THINK, EOS, Revision
from dsv4.protocol.requests import RequestOptions, from_openai
from dsv4.protocol.requests.request import Request
from dsv4.protocol.stop import StopMatcher
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer


class EngineSubject:
    """Asks an engine by the rules of the chat API. `revision`: of the effort texts.

    `close` is called when nothing more is asked, by default the engine's own.
    """

    def __init__(
        self,
        engine: EngineLike,
        tokenizer: Tokenizer,
        name: str,
        revision: Revision = "2026-04",
        close: Callable[[], None] | None = None,
    ):
        self._engine, self._tokenizer, self._name = engine, tokenizer, name
        self._options = RequestOptions(revision=revision, think_then_call=True)
        self._close = close or (lambda: engine.close(0.0))

    @property
    def name(self) -> str:
        """See `Subject`."""
        return self._name

    @property
    def context(self) -> int:
        """See `Subject`."""
        return self._engine.context

    def encode(self, text: str) -> list[int]:
        """See `Subject`: control tokens that the text spells count, as in Completions."""
        return self._tokenizer.encode(text, special=True)

    def count(self, ask: Ask) -> int:
        """See `Subject`."""
        if isinstance(ask.prompt, str):
            return len(self._begun(self.encode(ask.prompt)))
        return len(self._request(ask).ids(self._tokenizer))

    def generate(self, ask: Ask) -> Reply:
        """See `Subject`."""
        if isinstance(ask.prompt, str):
            return self._continue(ask)
        request = self._request(ask)
        ids = request.ids(self._tokenizer)
        sampling = self._sampling(ids, ask, request.temperature, request.top_p)
        loose = bool(request.tools) and request.tool_choice == "auto"
        grammar = request.grammar() if request.held else None
        marks = {EOS, END_THINK, DSML} if request.offers else {EOS, END_THINK}
        parser = request.parser()
        heard = _Heard(self._tokenizer, parser, marks)
        end = self._run(Job(ids, sampling, grammar=grammar, binding=not loose), heard)
        message = parser.finish()
        calls = [dict(call["function"]) for call in message["tool_calls"] or ()]
        return Reply(
            message["content"] or "",
            message["reasoning_content"] or "",
            calls,
            parser.finish_reason,
            *_tokens(end.usage),
        )

    def score_ids(
        self, context: Sequence[int], continuation: Sequence[int], *, bos: bool = True
    ) -> Score:
        """See `Subject`."""
        ids = [*context, *continuation]
        ids = self._begun(ids) if bos else ids
        self._check(ids, 1)
        heard = _Prompt()
        self._run(Job(ids, Sampling(0.0, max_tokens=1), logprobs=1, prompt_logprobs=True), heard)
        said = heard.prompt[max(len(ids) - len(continuation), 1) :]
        return added([(token.logprob, token.top[0][0] == token.id) for token in said])

    def close(self) -> None:
        """See `Subject`."""
        self._close()

    # ---- one job -----------------------------------------------------------------------------

    def _request(self, ask: Ask) -> Request:
        return from_openai(ask.chat(), self._options)

    def _continue(self, ask: Ask) -> Reply:
        assert isinstance(ask.prompt, str)
        ids = self._begun(self.encode(ask.prompt))
        reader = _Text(ask.stop)
        heard = _Heard(self._tokenizer, reader, set())
        end = self._run(Job(ids, self._sampling(ids, ask, ask.temperature, ask.top_p)), heard)
        return Reply("".join(reader.text), "", (), reader.finish_reason, *_tokens(end.usage))

    def _begun(self, ids: list[int]) -> list[int]:
        bos = self._tokenizer.token_id(BOS)
        return ids if ids[:1] == [bos] else [bos, *ids]

    def _sampling(self, ids: list[int], ask: Ask, temperature: float, top_p: float) -> Sampling:
        self._check(ids, ask.max_tokens)
        return Sampling(temperature, top_p, seed=ask.seed, max_tokens=ask.max_tokens)

    def _check(self, ids: Sequence[int], more: int) -> None:
        if len(ids) + more > self.context:
            raise TooLongError(
                f"the prompt has {len(ids)} tokens and {more} are asked for, the context is "
                f"{self.context}: leave the task out, or take a larger context"
            )

    def _run(self, job: Job, heard: _Listener) -> Finished:
        while True:
            try:
                self._engine.submit(job, heard)
                break
            except FullError as error:
                threading.Event().wait(error.retry_after)
        heard.over.wait()
        end = heard.end
        assert end is not None
        if end.reason in ("error", "cancelled"):
            raise SubjectError(f"the engine gave up a reply ({end.error or end.reason})")
        return end


class _Listener:
    """Waits for the end of one job."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.end: Finished | None = None

    def prefilled(self, usage: Usage, prompt: Sequence[Token] = ()) -> None:
        """See `Listener`."""

    def tokens(self, new: Sequence[Token]) -> bool:
        """See `Listener`."""
        return False

    def finished(self, end: Finished) -> None:
        """See `Listener`."""
        self.end = end
        self.over.set()


class _Prompt(_Listener):
    """Keeps the prompt's tokens; nothing else is wanted."""

    prompt: Sequence[Token] = ()

    def prefilled(self, usage: Usage, prompt: Sequence[Token] = ()) -> None:
        """See `Listener`."""
        self.prompt = list(prompt)

    def tokens(self, new: Sequence[Token]) -> bool:
        """See `Listener`."""
        return True


class _Heard(_Listener):
    """Feeds a parser; `marks` are the control tokens that it reads, others are no text."""

    def __init__(self, tokenizer: Tokenizer, parser: Any, marks: set[str]):
        super().__init__()
        self._text, self._parser, self._marks = tokenizer.stream(), parser, marks

    def tokens(self, new: Sequence[Token]) -> bool:
        """See `Listener`: the reply is over at a stop string."""
        for token in new:
            for piece, control in self._text.pieces(token.id):
                if not control or piece in self._marks:
                    self._parser.feed((piece, control))
            if self._parser.stopped_by is not None:
                return True
        return False

    def finished(self, end: Finished) -> None:
        """See `Listener`."""
        try:
            if rest := self._text.finish():
                self._parser.feed((rest, False))
            self._parser.close(stopped=end.reason == "stop")
        finally:
            super().finished(end)


class _Text:
    """Reads a reply as plain text, up to a stop string."""

    def __init__(self, stop: Sequence[str]):
        self._stop = StopMatcher(tuple(stop))
        self.text: list[str] = []
        self._ended = False

    def feed(self, piece: tuple[str, bool]) -> None:
        """Some more text."""
        self.text.append(self._stop.push(piece[0]))

    def close(self, stopped: bool = False) -> None:
        """The rest."""
        self._ended = stopped
        self.text.append(self._stop.finish())

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended it."""
        return self._stop.matched

    @property
    def finish_reason(self) -> str:
        """stop or length."""
        return "stop" if self._ended or self.stopped_by is not None else "length"


def _tokens(usage: Usage) -> tuple[int, int, int]:
    return usage.prompt, usage.cached, usage.completion
