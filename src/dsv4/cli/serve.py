"""`dsv4 serve` answers OpenAI's and Anthropic's APIs with a model, until it is told to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.front import KEY as FRONT_KEY
from dsv4.cli.front import RELEASED, addresses, known, remote
from dsv4.cli.loading import LoadOptions
from dsv4.cli.options import Revision, leave_out, told_by
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


@dataclass(kw_only=True)
class Options(LoadOptions):
    """What is served, to whom, and how; `of_engine` is for a model that runs here."""

    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint folder; nano is the packaged model. With --backend a folder with "
            "the tokenizer.json of the model that is served there, or flash, pro, flash-0731, "
            "pro-0813, whose tokenizer comes along; weights are not read.",
            show_default="nano; with --backend flash",
        ),
    ] = None
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Compute nothing here: stand before the OpenAI-compatible server at this URL "
            "(dsv4, vLLM); may be repeated, for servers of one model.",
            metavar="<url>",
        ),
    ] = None
    backend_key: Annotated[
        str | None,
        typer.Option(
            help=f"The backends' API key; better in the environment, as {FRONT_KEY}.",
            show_default="none is sent",
        ),
    ] = None
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="0 takes any that is free.", min=0, max=65535)] = 8000
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A name of the model; may be repeated.", show_default="the checkpoint's folder"
        ),
    ] = None
    any_model: Annotated[bool, typer.Option("--any-model", help="Answer to every model name.")] = (
        False
    )
    api_key: Annotated[
        str | None,
        typer.Option(
            help=f"Ask clients for this key; better in the environment, as {KEY}.",
            show_default="none is asked for",
        ),
    ] = None
    thinking: Annotated[
        bool, typer.Option(help="Whether to think where a request does not say.")
    ] = True
    system_in_place: Annotated[
        bool,
        typer.Option(
            "--system-in-place",
            help="Leave late system messages where they stand, as reminders, so that known"
            " prefixes stay known; DeepSeek's API puts them first.",
        ),
    ] = False
    revision: Revision = None
    slots: Annotated[
        int | None,
        typer.Option(help="Sequences that run at once.", min=1, show_default=str(SLOTS)),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(
            help="For the state of sequences and for prefixes, such as 4GiB.",
            show_default="a quarter of what is free, 4GiB at most",
        ),
    ] = None
    queue: Annotated[
        int, typer.Option(help="Requests that may wait; with --backend that may run.", min=0)
    ] = 1024
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep prefixes in this folder, too.", show_default="in memory alone"),
    ] = None
    cache_size: Annotated[
        str | None, typer.Option(help="The most that the folder may hold.", show_default="8GiB")
    ] = None
    cache_per_hour: Annotated[
        str | None,
        typer.Option(
            help="The most that is written to the folder in an hour.", show_default="no bound"
        ),
    ] = None
    period: Annotated[
        int | None,
        typer.Option(
            help="Tokens between two places where a known prefix can be gone on from: more is less"
            " memory and more that is read again; 0 keeps none.",
            show_default="a page, 128",
            min=0,
        ),
    ] = None
    draft: Annotated[
        float | None,
        typer.Option(
            help="Let the model's draft propose tokens down to this confidence; 0: all.",
            show_default="no drafts",
            min=0.0,
            max=1.0,
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name of this server; may be repeated; * for any.")
    ] = None
    cors: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may call this server; may be repeated; * for any."),
    ] = None
    grace: Annotated[
        float, typer.Option(help="Seconds that running replies get at the end.", min=0.0)
    ] = 30.0

    @property
    def of_engine(self) -> dict[str, Any]:
        """By name, with those of loading."""
        names = ("slots", "memory", "cache_size", "cache_per_hour", "period", "draft")
        return {name: getattr(self, name) for name in names} | self.of_loading

    def check(self) -> None:
        """Raises ValueError for options that do nothing beside the others."""
        if self.api_key == "":
            raise ValueError("--api-key is empty: leave it out, and no client is asked for a key")
        if "" in (self.name or ()):
            raise ValueError("--name is empty: name the model, or leave it out")
        if self.backend:
            leave_out("--backend", "computes elsewhere", self.of_engine)
            if self.queue == 0:
                raise ValueError(
                    "--queue 0 lets nothing run at a backend: name how many requests may run"
                )
        elif self.backend_key is not None:
            raise ValueError("--backend-key goes with --backend: name a server's URL")
        if self.cache is None and (self.cache_size or self.cache_per_hour):
            raise ValueError(
                "--cache-size and --cache-per-hour are a folder's: name it with --cache"
            )


@told_by(Options)
def serve(asked: Options) -> None:
    """Serve a model: Chat Completions, Completions, Responses and Messages, and a page to chat.

    With --backend the model runs elsewhere: prompts, tools, reasoning and the APIs are done here,
    and conversations go where their beginning was read before. Ctrl-C ends it: running replies are
    finished, or fail after --grace seconds.
    """
    asked.check()
    settings = _settings(asked)
    if asked.host not in LOOPBACK and settings.api_key is None:
        note(f"dsv4: whoever reaches {asked.host} can use this server: {KEY} would ask for a key")
    (_before_others if asked.backend else _alone)(asked, settings)


def _settings(asked: Options) -> Settings:
    """All but the model's names and revision."""
    from dsv4.server.settings import Settings

    near = asked.host in LOOPBACK
    return Settings(
        any_model=asked.any_model,
        thinking=asked.thinking,
        system_in_place=asked.system_in_place,
        api_key=asked.api_key or os.environ.get(KEY) or None,
        hosts=tuple(asked.allow_host or ()) + (() if near else (asked.host.lower(),)),
        any_address=not near,
        origins=tuple(asked.cors or ()),
        folder=asked.cache,
    )


def _before_others(asked: Options, settings: Settings) -> None:
    """Serve what the backends compute."""
    from dsv4.server.run import listen

    urls = addresses(asked.backend or ())
    elsewhere = known(asked.checkpoint or RELEASED, asked.revision)
    listening = listen(asked.host, asked.port)
    front = remote(urls, asked.backend_key, elsewhere, asked.queue)
    called = elsewhere.name or front.model or asked.checkpoint or RELEASED
    settings = replace(settings, models=tuple(asked.name or [called]), revision=elsewhere.revision)
    _run(front, elsewhere.tokenizer, settings, listening, asked.grace)


def _alone(asked: Options, settings: Settings) -> None:
    """Serve a model that runs here."""
    from dsv4.checkpoint.identity import identity
    from dsv4.checkpoint.revision import effort_revision
    from dsv4.server.run import listen

    sizes = _sizes(asked)
    loading = asked.loading(asked.checkpoint or "nano", asked.revision)
    model, tokenizer = loading.load()
    settings = replace(
        settings,
        models=tuple(asked.name or [loading.folder.resolve().name]),
        revision=effort_revision(model.config, asked.revision),
    )
    listening = listen(asked.host, asked.port)
    of_model = b"" if asked.cache is None else identity(loading.folder)
    engine = _engine(model, tokenizer, asked, sizes, of_model)
    _run(engine, tokenizer, settings, listening, asked.grace)


def _sizes(asked: Options) -> dict[str, Any]:
    """In bytes. Raises ValueError."""
    texts = {
        "memory": asked.memory,
        "cache-size": asked.cache_size or "8GiB",
        "cache-per-hour": asked.cache_per_hour,
    }
    return {
        name: None if text is None else parse_size(text, f"--{name}")
        for name, text in texts.items()
    }


def _engine(
    model: Transformer,
    tokenizer: Tokenizer,
    asked: Options,
    sizes: dict[str, Any],
    identity: bytes,
) -> Engine:
    from dsv4.engine.constraint import Constraints
    from dsv4.engine.engine import Engine

    config = model.config
    return Engine(
        model,
        Constraints(tokenizer, config.vocab_size, [config.eos_token_id]),
        slots=asked.slots or SLOTS,
        memory=sizes["memory"],
        queue=asked.queue,
        period=asked.period,
        folder=asked.cache,
        folder_bytes=sizes["cache-size"],
        folder_bytes_per_hour=sizes["cache-per-hour"],
        identity=identity,
        draft=asked.draft,
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
