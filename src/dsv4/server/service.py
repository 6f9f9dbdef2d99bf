"""JSON bodies → jobs of the engine; what all requests of a server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from dsv4.engine.request import EngineLike, Job
from dsv4.protocol.constants import EOS
from dsv4.protocol.errors import RequestError
from dsv4.protocol.requests import (
    Request,
    RequestOptions,
    common,
    from_anthropic,
    from_openai,
    from_responses,
)
from dsv4.sampling import Sampling
from dsv4.server.body import parse
from dsv4.server.chat import ChatWriter
from dsv4.server.completions import CompletionWriter, TextReader, read_completion
from dsv4.server.errors import ApiError, refused
from dsv4.server.exchange import Exchange
from dsv4.server.extras import Extras, read_extras
from dsv4.server.messages import MessagesWriter
from dsv4.server.metrics import Metrics
from dsv4.server.names import new_id
from dsv4.server.reply import Bell, Inbox, marks_of
from dsv4.server.responses import ResponsesWriter, given_of
from dsv4.server.settings import Settings
from dsv4.server.spelling import Spellings
from dsv4.server.store import Store
from dsv4.server.within import Within
from dsv4.server.writer import Writer
from dsv4.tokenizer import Tokenizer

LARGE = 1 << 20  # bytes of a body that takes long to read

T = TypeVar("T")


class Answer(NamedTuple):
    """A request that the engine has taken, and who writes its reply."""

    exchange: Exchange
    writer: Writer
    stream: bool
    done: Callable[[], None] = lambda: None  # when the whole response is known


class Service:
    """An engine, its tokenizer, and what was chosen for serving it."""

    def __init__(self, engine: EngineLike, tokenizer: Tokenizer, settings: Settings):
        self.engine, self.tokenizer, self.settings = engine, tokenizer, settings
        self.metrics = Metrics(engine)
        self.store = Store(settings.stored, settings.stored_bytes)
        self.spellings = Spellings(tokenizer, settings.folder)
        self._threads = ThreadPoolExecutor(4, "dsv4-request")
        self._bell: Bell | None = None
        self._large = ThreadPoolExecutor(2, "dsv4-large")
        self.options = RequestOptions(
            models=None if settings.any_model else settings.models,
            revision=settings.revision,
            default_thinking=settings.thinking,
            think_then_call=True,
            system_in_place=settings.system_in_place,
        )

    def inbox(self) -> Inbox:
        """For one request, in the event loop."""
        if self._bell is None or self._bell.loop is not asyncio.get_running_loop():
            self._bell = Bell()
        return Inbox(self._bell)

    async def aside(self, work: Callable[[], T], size: int) -> T:
        """Do what takes time with a body of `size` bytes in another thread; large ones have threads
        of their own, and small ones do not wait for them. Raises ApiError for what a client must
        mend.
        """
        threads = self._large if size > LARGE else self._threads
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except Exception as error:
            raise refused(error) from error

    def close(self) -> None:
        """Give the threads back."""
        for threads in (self._threads, self._large):
            threads.shutdown(wait=False, cancel_futures=True)
        self.spellings.close()

    # ---- the APIs; each is run aside ---------------------------------------------------------

    def chat(self, data: bytes, inbox: Inbox) -> Answer:
        """Chat Completions."""
        body = self._body(data)
        extras = read_extras(body, self.settings.max_choices)
        request = from_openai({**body, "n": None}, self.options)
        exchange = self._exchange("chatcmpl-", request.model, inbox)
        done = self._submit(exchange, request, extras)
        return Answer(exchange, ChatWriter(exchange, request), request.stream, done)

    def messages(self, data: bytes, inbox: Inbox) -> Answer:
        """Messages."""
        body = self._body(data)
        if body.get("max_tokens") is None:
            raise RequestError("is missing: the most tokens to generate", "max_tokens")
        extras = replace(read_extras(body, 1), end_ids=())
        choice = body.get("tool_choice")
        alone = choice.get("disable_parallel_tool_use") if isinstance(choice, dict) else None
        if isinstance(alone, bool):
            extras = replace(extras, parallel_tool_calls=not alone)
        request = from_anthropic(body, self.options)
        exchange = self._exchange("msg_", request.model, inbox)
        done = self._submit(exchange, request, extras)
        return Answer(exchange, MessagesWriter(exchange, request), request.stream, done)

    def count_tokens(self, data: bytes) -> int:
        """How many tokens a Messages request's prompt has."""
        request = from_anthropic({**self._body(data), "max_tokens": None}, self.options)
        within = Within(self.tokenizer, self.engine.context)
        return len(request.ids(within, spelt=self.spellings.of))

    def responses(self, data: bytes, inbox: Inbox) -> Answer:
        """Responses."""
        body = self._body(data)
        extras = read_extras(body, 1)
        stored = body.get("store") is not False
        before = self._before(body)
        given = _items(body.get("input"))
        items = [*before, *(self._meant(item) for item in given)]
        asked = {**body, "previous_response_id": None}
        if items != given:
            asked["input"] = items
        request = from_responses(asked, self.options)
        exchange = self._exchange("resp_", request.model, inbox)
        remember = self._submit(exchange, request, extras)
        writer = ResponsesWriter(exchange, request, given_of(body, request, stored))

        def done() -> None:
            remember()
            if stored:
                self.store.put(exchange.id, [*items, *writer.output], writer.whole())

        return Answer(exchange, writer, request.stream, done)

    def completions(self, data: bytes, inbox: Inbox) -> Answer:
        """Completions."""
        body = parse(data)
        asked = read_completion(body, self.tokenizer, self.settings, self.engine.context)
        exchange = self._exchange("cmpl-", asked.model, inbox)
        exchange.prompts = len(asked.prompts)
        stop = self._stop(body)
        jobs = [self._ended(job, asked.extras) for job in asked.jobs()]
        exchange.submit(self.engine, jobs, lambda: TextReader(stop), marks=frozenset())
        return Answer(exchange, CompletionWriter(exchange, asked), asked.stream)

    # ---- jobs --------------------------------------------------------------------------------

    def _body(self, data: bytes) -> dict[str, Any]:
        """The object, with no more messages than the server takes."""
        body = parse(data)
        most = self.settings.max_messages
        for key in ("messages", "input", "tools"):
            given = body.get(key)
            if isinstance(given, list) and len(given) > most:
                raise ApiError(400, f"{key}: has more than {most} entries", key)
        return body

    def _stop(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        return common.check_stop(common.read_stop(body, "stop"))

    def _exchange(self, prefix: str, model: str | None, inbox: Inbox) -> Exchange:
        name = self.settings.models[0] if model is None else model
        return Exchange(new_id(prefix), name, self.tokenizer, inbox)

    def _submit(self, exchange: Exchange, request: Request, extras: Extras) -> Callable[[], None]:
        """Queue the jobs; what is returned remembers how the replies were spelt, at their end."""
        jobs = list(self._jobs(request, extras))
        exchange.submit(
            self.engine,
            jobs,
            request.parser,
            marks=marks_of(bool(request.offers)),
            thinking=request.thinks,
        )

        def remember() -> None:
            if not request.continues and request.task is None:
                opened = self.spellings.opened(jobs[0].ids)
                for reply in exchange.replies:
                    self.spellings.remember(reply, opened)

        return remember

    def _jobs(self, request: Request, extras: Extras) -> Iterator[Job]:
        if request.thinks:
            extras = extras.thinking()
        within = Within(self.tokenizer, self.engine.context)
        ids = request.ids(within, spelt=self.spellings.of)
        seed = extras.seed if request.asked.seed is None else request.asked.seed
        sampling = Sampling(
            request.temperature,
            request.top_p,
            extras.top_k,
            extras.min_p,
            seed,
            (),
            request.max_tokens(len(ids), self.engine.context),
        )
        loose = request.tool_choice == "auto" and not any(
            tool["function"].get("strict") for tool in request.tools
        )
        top = request.asked.top_logprobs or 0
        for number in range(extras.choices):
            job = Job(
                ids,
                sampling,
                number,
                logprobs=top if request.asked.logprobs else None,
                grammar=request.grammar(extras.parallel_tool_calls) if request.held else None,
                binding=not (request.tools and loose),
                frequency_penalty=extras.frequency_penalty,
                presence_penalty=extras.presence_penalty,
                repetition_penalty=extras.repetition_penalty,
                logit_bias=extras.logit_bias,
            )
            yield self._ended(job, extras)

    def _ended(self, job: Job, extras: Extras) -> Job:
        """With the request's own ids that end it."""
        largest = self.tokenizer.largest_id
        for token in (*extras.logit_bias, *extras.end_ids):
            if token > largest:
                raise RequestError(f"the token id {token} is past the largest, {largest}")
        if not extras.end_ids:
            return job
        usual = [self.tokenizer.token_id(EOS)] if job.end_ids is None else job.end_ids
        return replace(job, end_ids=(*usual, *extras.end_ids))

    def _meant(self, item: Any) -> Any:
        """What a reference to an item of a response stands for; else the item itself."""
        if not isinstance(item, dict) or item.get("type") != "item_reference":
            return item
        key = item.get("id")
        if not isinstance(key, str):
            raise RequestError("must be text", "input.id")
        return self.store.item(key)

    def _before(self, body: Mapping[str, Any]) -> list[Any]:
        """The items of the response that the request goes on from."""
        key = body.get("previous_response_id")
        if key is None:
            return []
        if not isinstance(key, str):
            raise RequestError("must be text", "previous_response_id")
        return self.store.items(key)


def _items(given: Any) -> list[Any]:
    """The input as items."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return list(given) if isinstance(given, list) else []
