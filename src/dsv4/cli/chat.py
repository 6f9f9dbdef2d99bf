"""`dsv4 generate` continues a text; `dsv4 chat` holds a dialogue, in a terminal or a pipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.loading import LoadOptions, Name
from dsv4.cli.options import Revision, exclude, leave_out, told_by
from dsv4.cli.streams import argument, read_json, read_text
from dsv4.files import parse_json
from dsv4.protocol.effort import EFFORT_WORDS

if TYPE_CHECKING:
    from dsv4.model.transformer import Transformer
    from dsv4.sampling import Sampling
    from dsv4.tokenizer import Tokenizer

KEY = "DSV4_API_KEY"
MaxTokens = Annotated[int, typer.Option(help="The most tokens to generate.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that weigh this much.")]
TopK = Annotated[int, typer.Option(help="Keep this many of the likeliest tokens; 0: all.")]
MinP = Annotated[float, typer.Option(help="Drop tokens below this share of the likeliest.")]
Seed = Annotated[
    int | None, typer.Option(help="The same seed gives the same text.", show_default="random")
]
Stop = Annotated[
    list[str] | None, typer.Option(help="End at this text; may be repeated.", metavar="<str>")
]


@dataclass(kw_only=True)
class Sampled(LoadOptions):
    """What is sampled, and of which model."""

    max_tokens: MaxTokens = 256
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    seed: Seed = None
    stop: Stop = None

    @property
    def words(self) -> list[str]:
        """Texts that end a reply. Raises ValueError."""
        return [argument(word, "--stop") for word in self.stop or ()]

    @property
    def sampling(self) -> Sampling:
        """Raises ValueError."""
        from dsv4.sampling import Sampling

        return Sampling(
            self.temperature,
            self.top_p,
            self.top_k,
            self.min_p,
            self.seed,
            self.words,
            self.max_tokens,
        )

    @property
    def fields_of_request(self) -> dict[str, Any]:
        """For a server, whose own defaults hold where nothing was chosen."""
        chosen: dict[str, tuple[Any, Any]] = {
            "temperature": (self.temperature, 1),
            "top_p": (self.top_p, 1),
            "top_k": (self.top_k, 0),
            "min_p": (self.min_p, 0),
            "seed": (self.seed, None),
            "stop": (self.words, []),
        }
        asked = {name: value for name, (value, usual) in chosen.items() if value != usual}
        return {"max_tokens": self.max_tokens} | asked


@dataclass(kw_only=True)
class Continued(Sampled):
    """A text, and how it goes on."""

    checkpoint: Name = "nano"
    prompt: Annotated[str, typer.Option(help="The text to continue; - reads stdin.")] = "-"
    special: Annotated[
        bool, typer.Option("--special", help="Control tokens that the prompt spells count.")
    ] = False
    ids: Annotated[bool, typer.Option("--ids", help="The prompt is JSON: a list of ids.")] = False


@told_by(Continued)
def generate(asked: Continued) -> None:
    """Continue a text, as it comes from the model, without the chat protocol.

    The prompt may come from dsv4 encode: with --special its text, with --ids its ids. The
    beginning-of-sentence token is put before a text that does not spell it, never before ids.
    """
    from dsv4.cli import session

    exclude(special=asked.special, ids=asked.ids)
    sampling, loading = asked.sampling, asked.loading(asked.checkpoint)
    given = _ids(asked.prompt) if asked.ids else _text(asked.prompt)
    model, tokenizer = loading.load()
    chosen = given if isinstance(given, list) else _encode(given, model, tokenizer, asked.special)
    session.continue_text(model, tokenizer, chosen, sampling)


@dataclass(kw_only=True)
class Talk(Sampled):
    """A dialogue, here or with a server."""

    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint folder; nano is the packaged model. With --url the model's name "
            "at the server.",
            show_default="nano; with --url the first that it serves",
        ),
    ] = None
    url: Annotated[
        str | None,
        typer.Option(help="Chat with the OpenAI-compatible server at this URL.", metavar="<url>"),
    ] = None
    api_key: Annotated[
        str | None,
        typer.Option(
            help=f"The server's; better in the environment, as {KEY}.",
            show_default="none is sent",
        ),
    ] = None
    effort: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(EFFORT_WORDS)} (no thinking: none).",
            show_default="none; with --url the server's own",
        ),
    ] = None
    system: Annotated[
        str | None, typer.Option(help="A system message that opens the dialogue.")
    ] = None
    revision: Revision = None
    max_tokens: MaxTokens = 512


@told_by(Talk)
def chat(asked: Talk) -> None:
    """Chat with a model, or with a server: at a terminal, or line by line from a pipe.

    In a pipe, reasoning stands between <think> and </think>, and whatever is no answer goes to
    stderr.
    """
    from dsv4.cli import session, terminal
    from dsv4.protocol.effort import resolve_effort

    resolve_effort(asked.effort, asked.revision or "2026-04")  # all revisions have the same words
    opening = None if asked.system is None else argument(asked.system, "--system")
    if asked.url is not None:
        leave_out("--url", "asks a server", asked.of_loading | {"revision": asked.revision})
        fields = asked.fields_of_request
        _with_server(asked.url, asked.checkpoint, asked.api_key, asked.effort, opening, fields)
        return
    if asked.api_key is not None:
        raise ValueError("--api-key goes with --url")
    with terminal.quiet():
        from dsv4.chat import Chat

        sampling = asked.sampling
        model, tokenizer = asked.loading(asked.checkpoint or "nano", asked.revision).load()
        effort = asked.effort or "none"
        session.converse(Chat(model, tokenizer, sampling, effort=effort, system=opening))


def _with_server(
    url: str,
    model: str | None,
    key: str | None,
    effort: str | None,
    system: str | None,
    settings: dict[str, Any],
) -> None:
    from dsv4.cli import session, terminal
    from dsv4.remote.chat import RemoteChat
    from dsv4.remote.http import base_url

    base = base_url(url, "--url")
    key = key or os.environ.get(KEY)
    with terminal.quiet():
        session.converse(
            RemoteChat(base, model=model, key=key, effort=effort, system=system, settings=settings)
        )


def _text(prompt: str) -> str:
    return read_text("-") if prompt == "-" else argument(prompt, "--prompt")


def _ids(prompt: str) -> list[int]:
    """The ids of a JSON list. Raises ValueError."""
    found: Any = read_json("-") if prompt == "-" else parse_json(prompt, "--prompt")
    if not isinstance(found, list) or not all(type(token) is int for token in found):
        raise ValueError("the prompt must be a list of token ids, as dsv4 encode --ids prints it")
    return found


def _encode(text: str, model: Transformer, tokenizer: Tokenizer, special: bool) -> list[int]:
    ids, bos = tokenizer.encode(text, special=special), model.config.bos_token_id
    return ids if special and ids[:1] == [bos] else [bos, *ids]
