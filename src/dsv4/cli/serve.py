"""`dsv4 serve` answers OpenAI's and Anthropic's APIs with a model, until it is told to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from dsv4.cli.front import KEY as FRONT_KEY
from dsv4.cli.front import RELEASED, addresses, known, remote
from dsv4.cli.loading import Copy, Dtype, Loading, MaxResident, Mode
from dsv4.cli.options import Revision, Threads, leave_out
from dsv4.cli.sizes import parse_size
from dsv4.cli.streams import note, say

if TYPE_CHECKING:
    from dsv4.engine.engine import Engine
    from dsv4.engine.request import EngineLike
    from dsv4.model.transformer import Transformer
    from dsv4.server.settings import Settings
    from dsv4.tokenizer import Tokenizer

LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEY = "DSV4_API_KEY"
SLOTS = 32


class Kept(NamedTuple):
    """Where prefixes are kept, in how many bytes, of which so many are written in an hour; tokens
    between their states."""

    folder: Path | None
    size: int
    per_hour: int | None
    period: int | None


def serve(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint folder; nano is the packaged model. With --backend a folder with "
            "the tokenizer.json of the model that is served there, or flash, pro, flash-0731, "
            "pro-0813, whose tokenizer comes along; weights are not read.",
            show_default="nano; with --backend flash",
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Compute nothing here: stand before the OpenAI-compatible server at this URL "
            "(dsv4, vLLM); may be repeated, for servers of one model.",
            metavar="<url>",
        ),
    ] = None,
    backend_key: Annotated[
        str | None,
        typer.Option(
            help=f"The backends' API key; better in the environment, as {FRONT_KEY}.",
            show_default="none is sent",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.", min=0, max=65535)] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A name of the model; may be repeated.", show_default="the checkpoint's folder"
        ),
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Answer to every model name.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(
            help=f"Ask clients for this key; better in the environment, as {KEY}.",
            show_default="none is asked for",
        ),
    ] = None,
    thinking: Annotated[
        bool, typer.Option(help="Whether to think where a request does not say.")
    ] = True,
    system_in_place: Annotated[
        bool,
        typer.Option(
            "--system-in-place",
            help="Leave late system messages where they stand, as reminders, so that known"
            " prefixes stay known; DeepSeek's API puts them first.",
        ),
    ] = False,
    revision: Revision = None,
    slots: Annotated[int, typer.Option(help="Sequences that run at once.", min=1)] = SLOTS,
    memory: Annotated[
        str | None,
        typer.Option(
            help="For the state of sequences and for prefixes, such as 4GiB.",
            show_default="a quarter of what is free, 4GiB at most",
        ),
    ] = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait.", min=0)] = 1024,
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep prefixes in this folder, too.", show_default="in memory alone"),
    ] = None,
    cache_size: Annotated[
        str | None, typer.Option(help="The most that the folder may hold.", show_default="8GiB")
    ] = None,
    cache_per_hour: Annotated[
        str | None,
        typer.Option(
            help="The most that is written to the folder in an hour.", show_default="no bound"
        ),
    ] = None,
    period: Annotated[
        int | None,
        typer.Option(
            help="Tokens between two places where a known prefix can be gone on from: more is less"
            " memory and more that is read again; 0 keeps none.",
            show_default="a page, 128",
            min=0,
        ),
    ] = None,
    draft: Annotated[
        float | None,
        typer.Option(
            help="Let the model's draft propose tokens down to this confidence; 0: all.",
            show_default="no drafts",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name of this server; may be repeated; * for any.")
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may call this server; may be repeated; * for any."),
    ] = None,
    grace: Annotated[
        float, typer.Option(help="Seconds that running replies get at the end.", min=0.0)
    ] = 30.0,
    dtype: Dtype = None,
    mode: Mode = None,
    max_resident: MaxResident = None,
    copy: Copy = False,
    threads: Threads = None,
) -> None:
    """Serve a model: Chat Completions, Completions, Responses and Messages, and a page to chat.

    With --backend the model runs elsewhere: prompts, tools, reasoning and the APIs are done here,
    and conversations go where their beginning was read before. Ctrl-C ends it: running replies are
    finished, or fail after --grace seconds.
    """
    from dsv4.checkpoint.identity import identity
    from dsv4.checkpoint.revision import effort_revision
    from dsv4.server.run import listen
    from dsv4.server.settings import Settings

    state = None if memory is None else parse_size(memory, "--memory")
    if cache is None and (cache_size or cache_per_hour):
        raise ValueError("--cache-size and --cache-per-hour are a folder's: name it with --cache")
    kept = Kept(
        cache,
        parse_size(cache_size or "8GiB", "--cache-size"),
        None if cache_per_hour is None else parse_size(cache_per_hour, "--cache-per-hour"),
        period,
    )
    settings = Settings(
        any_model=any_model,
        thinking=thinking,
        system_in_place=system_in_place,
        api_key=api_key or os.environ.get(KEY) or None,
        hosts=tuple(allow_host or ()) + (() if host in LOOPBACK else (host.lower(),)),
        any_address=host not in LOOPBACK,
        origins=tuple(cors or ()),
        folder=cache,
    )
    if host not in LOOPBACK and settings.api_key is None:
        note(f"dsv4: whoever reaches {host} can use this server: {KEY} would ask for a key")
    if backend:
        here = {"slots": slots != SLOTS, "memory": memory, "draft": draft is not None}
        here |= {"period": period is not None, "cache_per_hour": cache_per_hour}
        here |= {"dtype": dtype, "mode": mode, "max_resident": max_resident, "copy": copy}
        leave_out("--backend", "computes elsewhere", here | {"threads": threads})
        urls = addresses(backend)
        elsewhere = known(checkpoint or RELEASED, revision)
        listening = listen(host, port)
        front = remote(urls, backend_key, elsewhere, queue)
        called = elsewhere.name or front.model or checkpoint or RELEASED
        settings = replace(settings, models=tuple(name or [called]), revision=elsewhere.revision)
        _run(front, elsewhere.tokenizer, settings, listening, grace)
        return
    loading = Loading(checkpoint or "nano", dtype, mode, max_resident, copy, threads, revision)
    model, tokenizer = loading.load()
    settings = replace(
        settings,
        models=tuple(name or [loading.folder.resolve().name]),
        revision=effort_revision(model.config, revision),
    )
    listening = listen(host, port)
    of_model = b"" if cache is None else identity(loading.folder)
    engine = _engine(model, tokenizer, slots, state, queue, kept, of_model, draft)
    _run(engine, tokenizer, settings, listening, grace)


def _engine(
    model: Transformer,
    tokenizer: Tokenizer,
    slots: int,
    memory: int | None,
    queue: int,
    kept: Kept,
    identity: bytes,
    draft: float | None,
) -> Engine:
    from dsv4.engine.constraint import Constraints
    from dsv4.engine.engine import Engine

    config = model.config
    constraints = Constraints(tokenizer, config.vocab_size, [config.eos_token_id])
    return Engine(
        model,
        constraints,
        slots=slots,
        memory=memory,
        queue=queue,
        period=kept.period,
        folder=kept.folder,
        folder_bytes=kept.size,
        folder_bytes_per_hour=kept.per_hour,
        identity=identity,
        draft=draft,
    )


def _run(
    engine: EngineLike,
    tokenizer: Tokenizer,
    settings: Settings,
    listening: socket.socket,
    grace: float,
) -> None:
    from dsv4.cli.live import Live
    from dsv4.server.run import Server
    from dsv4.server.service import Service

    service = Service(engine, tokenizer, settings)
    live = Live(service)

    def began(urls: Sequence[str]) -> None:
        say(f"{settings.models[0]} at {urls[0]}")
        live.begin()

    server = Server(service, grace, began)
    try:
        server.run(sockets=[listening])
    finally:
        live.end()
        engine.close(0.0)
