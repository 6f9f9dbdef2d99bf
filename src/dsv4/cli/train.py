"""`dsv4 train`: text → tokens → a trained model in the released layout."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.errors import INTERRUPTED
from dsv4.cli.options import Threads, exclude, set_threads
from dsv4.cli.streams import note, say
from dsv4.config import Config
from dsv4.train.settings import Settings

if TYPE_CHECKING:
    from dsv4.train.pretrain import Run

DEFAULT = Settings()
SIMPLE_ENGLISH = ("questions", "greetings")


def train(
    out: Annotated[Path, typer.Argument(help="Folder of the run; the model goes to OUT/model.")],
    preset: Annotated[
        str | None, typer.Option(help="nano, or another preset.", show_default="nano")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A config.json instead of a preset.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="About how long to train.", show_default=str(DEFAULT.minutes)),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Train exactly so many steps instead.")] = None,
    batch: Annotated[int, typer.Option(help="Rows a step.")] = DEFAULT.batch,
    seq_len: Annotated[int, typer.Option(help="Tokens a row.")] = DEFAULT.seq_len,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = DEFAULT.lr,
    seed: Annotated[int, typer.Option(help="Weights, order of the text.")] = DEFAULT.seed,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.")] = False,
    threads: Threads = None,
) -> None:
    """Train a small model on simple English (fetched once, 145 MB)."""
    exclude(preset=preset, config=config)
    if steps is not None and minutes is not None:
        raise ValueError("--steps and --minutes exclude each other: give one of them")
    model_config = Config.from_preset(preset or "nano") if config is None else Config.load(config)
    settings = Settings(
        steps=steps or 0,
        minutes=DEFAULT.minutes if minutes is None else minutes,
        batch=batch,
        seq_len=seq_len,
        lr=lr,
        seed=seed,
    )
    settings.check(model_config)
    run = _prepared(out, model_config, settings, resume, threads)
    with _telling(lambda: run.kept):
        if not run.train(say):
            note(f"stopped after step {run.step}; {run.kept}")
            raise typer.Exit(INTERRUPTED)
        path = _export(run)
    say(f"wrote {path}; talk to it with: dsv4 chat {path}")


def _prepared(
    out: Path, config: Config, settings: Settings, resume: bool, threads: int | None
) -> Run:
    """The run, once everything that can be refused at once has been looked at."""
    from dsv4.data.bpe import check_vocab
    from dsv4.train.memory import check_memory
    from dsv4.train.pretrain import STATE_FILE, Run
    from dsv4.train.state import load_state

    set_threads(threads)
    check_memory(config, settings)
    check_vocab(config.vocab_size)
    _check_folder(out)
    if not resume and (out / STATE_FILE).exists():
        raise FileExistsError(f"{out} holds a run: --resume continues it, or name a new folder")
    state = load_state(out / STATE_FILE, config, settings) if resume else None
    _check_writable(out)
    for ratio in settings.untrained(config):
        short = f"rows of {settings.seq_len} tokens close no block of {ratio}"
        note(f"note: {short}: what compresses those keeps its initial weights")
    begun = "the same command begins again"
    with _telling(lambda: begun if state is None else f"{out / STATE_FILE} is kept: {begun}"):
        return Run(config, settings, prepare(out / "data", config), out, state)


def _check_folder(out: Path) -> None:
    """Raises ValueError where a file, or a folder of something else, is in the run's way."""
    from dsv4.checkpoint.folder import check_target
    from dsv4.train.pretrain import METRICS_FILE

    for folder in (out, out / "data", out / "model"):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name another folder for the run")
    metrics = out / METRICS_FILE
    if metrics.exists() and not metrics.is_file():
        raise ValueError(f"{metrics} is no regular file: remove it, or name another folder")
    check_target(out / "model", overwrite=True)


def _check_writable(out: Path) -> None:
    """Make the folder. Raises OSError, naming it, if nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"{out} cannot hold a run ({error.strerror}): name another folder") from error


@contextmanager
def _telling(kept: Callable[[], str]) -> Iterator[None]:
    """Add to what ends a run in the middle what is kept of it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        named = error.filename and error.strerror
        reason = f"{error.filename}: {error.strerror}" if named else str(error)
        raise OSError(f"{reason}; {kept()}") from error
    except KeyboardInterrupt:
        note(f"dsv4: interrupted; {kept()}")
        raise typer.Exit(INTERRUPTED) from None


def _export(run: Run) -> Path:
    """Write the model in the released layout."""
    from dsv4.checkpoint.folder import TOKENIZER_FILES
    from dsv4.checkpoint.official import save

    path, files = run.out / "model", [run.out / "data" / name for name in TOKENIZER_FILES]
    try:
        return save(run.model.state_dict(), run.config, path, tokenizer_files=files, overwrite=True)
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror or error})") from error


def prepare(folder: Path, config: Config) -> Path:
    """Tokenizer and token files of simple English in `folder`, made unless they are there already.

    Raises: CorpusError, WriteError; what was interrupted goes on the next time.
    """
    from dsv4.data.augment import Augment
    from dsv4.data.build import build, input_of
    from dsv4.data.prepared import MIXTURE_FILE
    from dsv4.data.sources import chosen
    from dsv4.data.sources.fetch import fetch

    if (folder / MIXTURE_FILE).is_file():
        return folder
    inputs = [input_of(fetch(package, say=say)) for package in chosen(list(SIMPLE_ENGLISH))]
    files = build(
        inputs,
        folder,
        vocab_size=config.vocab_size,
        context=config.max_position_embeddings,
        augment=Augment(),
        say=say,
    )
    tokens = sum(parts["train"].header.tokens for parts in files.values())
    say(f"{tokens:,} training tokens in {folder}")
    return folder
