"""`dsv4 train`: a recipe, or a line of flags, or minutes alone → a trained model."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.options import Threads, exclude, set_threads
from dsv4.cli.runs import check_folder, check_writable, export, prepare, print_plan
from dsv4.cli.streams import note, say
from dsv4.interrupt import ending, exit_code
from dsv4.recipes import NAMES, check_folder_meant, find, is_recipe
from dsv4.train import override as settings
from dsv4.train.override import override
from dsv4.train.recipe import Recipe, Stage, Text

if TYPE_CHECKING:
    from dsv4.train.checkpoints import Checkpoints
    from dsv4.train.pretrain import Run
    from dsv4.train.progress import Progress
    from dsv4.train.whole import Whole

MINUTES, BATCH, SEQ_LEN = 30.0, 8, 256
FLAGS = settings.FLAGS | {"config": "model", "seq_len": "stages.seq_len", "lr": "lr"}
FLAGS |= {"seed": "seed"}  # and the settings they mean


def train(
    what: Annotated[
        str | None,
        typer.Argument(help=f"A recipe ({', '.join(NAMES)}, a file NAME.py), or a run's folder."),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(help="key=value: settings of the recipe.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of a recipe's run.", show_default="runs/NAME")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="About how long to train.", show_default=f"{MINUTES:g}")
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Print the plan, and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run.")] = False,
    preset: Annotated[
        str | None, typer.Option(help="nano, or another preset.", show_default="nano")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A config.json instead of a preset.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train exactly so many steps instead.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a step.", show_default=str(BATCH))] = None,
    seq_len: Annotated[
        int | None, typer.Option(help="Tokens a row.", show_default=str(SEQ_LEN))
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Weights, order of the text.")] = None,
    threads: Threads = None,
) -> None:
    """Train a model: by a recipe (dsv4 train nano lr=5e-3), by flags (dsv4 train FOLDER --steps
    500), or for some minutes (dsv4 train --minutes 30: shape, tokens, batch and rate are chosen).

    Without text of its own a run learns simple English (fetched once, 145 MB).
    """
    set_threads(threads)
    flags: dict[str, Any] = {"preset": preset, "config": config, "steps": steps, "batch": batch}
    flags |= {"seq_len": seq_len, "lr": lr, "seed": seed}
    given = {name: value for name, value in flags.items() if value is not None}
    _check_minutes(minutes, steps)
    begun, measured = time.perf_counter(), False
    if what is None or "=" in what:
        words = [*([] if what is None else [what]), *(changes or [])]
        folder = out or Path("run")
        recipe = _saved(folder) if resume else _by_minutes(minutes, words, given)
        measured = True
    elif is_recipe(what) or changes:
        _refuse(given)
        recipe = override(find(what), changes or [])
        folder = out or Path("runs") / recipe.name
    else:
        if out is not None:
            raise ValueError(f"--out belongs to a recipe's run: {what} is the folder already")
        check_folder_meant(what)
        folder = Path(what)
        if resume and not given and minutes is None:
            recipe = _saved(folder)
        else:
            recipe = _by_flags(folder.name, given)
            if steps is None:
                minutes = MINUTES if minutes is None else minutes
    if minutes is not None:
        recipe = dataclasses.replace(recipe, minutes=minutes)
    recipe.check()
    if dry:
        print_plan(recipe)
        return
    _train(recipe, folder, resume, time.perf_counter() - begun if measured else None)


def _train(recipe: Recipe, out: Path, resume: bool, measured: float | None) -> None:
    """`measured`: seconds that were spent on choosing the recipe, where its speed is known."""
    from dsv4.checkpoint.folder import claimed
    from dsv4.train.parallel.start import joined

    whole = joined(recipe.mesh)
    saved, resume = _checked(recipe, out, resume, whole)
    with ending(), claimed(out, "training run") if whole.chief else nullcontext():
        run = _prepared(recipe, out, saved, resume, whole, measured)
        with telling(lambda: run.kept):
            if not run.train(_progress()):
                if whole.chief:
                    note(f"stopped after step {run.step}; {run.kept}")
                raise typer.Exit(exit_code(run.ended_by or signal.SIGINT))
            weights = dict(whole.weights(run.trainer.model))
            if whole.chief:
                path = export(out, run.recipe, weights)
                say(f"wrote {path}; talk to it with: dsv4 chat {path}")


def _checked(recipe: Recipe, out: Path, resume: bool, whole: Whole) -> tuple[Checkpoints, bool]:
    """Refuse at once, before anything is made, what cannot be trained, or not there. The states of
    the folder, and whether to go on with one."""
    from dsv4.data.bpe import check_vocab
    from dsv4.train.memory import check_memory
    from dsv4.train.parallel.start import checkpoints_of, restarted
    from dsv4.train.pretrain import CHECKPOINTS
    from dsv4.train.sinks import check_sinks

    check_memory(recipe)
    check_sinks(recipe.sinks)
    if not recipe.text:
        check_vocab(recipe.model_config.vocab_size)
    check_folder(out)
    saved = checkpoints_of(whole, out / CHECKPOINTS)
    resume = resume or (restarted() and bool(saved.steps()))
    if not resume and saved.steps():
        raise FileExistsError(f"{out} holds a run: --resume continues it, or name a new folder")
    if resume and not saved.steps():
        raise FileNotFoundError(f"there is no state in {saved.folder}: start without --resume")
    check_writable(out)
    return saved, resume


def _prepared(
    recipe: Recipe,
    out: Path,
    saved: Checkpoints,
    resume: bool,
    whole: Whole,
    measured: float | None,
) -> Run:
    from dsv4.train.dial import timed
    from dsv4.train.pretrain import Run
    from dsv4.train.schedule import Plan

    state: dict[str, Any] | None = None
    if resume:
        state = saved.newest(lambda line: note(f"note: {line}") if whole.chief else None)
        recipe = _as_begun(recipe, state, saved.file(state["position"]["step"]), whole)
    for ratio in recipe.untrained() if whole.chief else ():
        note(f"note: no row closes a block of {ratio}: what compresses those keeps its weights")
    begun = "the same command begins again"
    with telling(lambda: begun if state is None else f"{saved.folder} is kept: {begun}"):
        started = time.perf_counter()
        if recipe.minutes is not None and state is None and measured is None:
            recipe = timed(recipe, recipe.minutes)
            say(f"{recipe.minutes:g} minutes are about {recipe.tokens:,} tokens here")
        spent = (measured or 0.0) + time.perf_counter() - started
        texts = recipe.text or (Text(folder=str(out / "data")),)
        if whole.chief and not recipe.text:
            planned = Plan(recipe).tokens if recipe.minutes is not None else None
            prepare(out / "data", recipe.model_config, planned, going_on=state is not None)
        whole.any(False)  # the others wait for it
        return Run(
            recipe,
            out,
            texts=texts,
            state=state,
            whole=whole,
            checkpoints=saved,
            spent=spent,
        )


def _as_begun(recipe: Recipe, state: dict[str, Any], file: Path, whole: Whole) -> Recipe:
    """The recipe that a run goes on with: what its minutes made of it stays. Raises TrainingError
    where anything else differs."""
    from dsv4.train.state import check_same

    own = state["recipe"]
    minutes, asked = own.get("minutes"), recipe.minutes
    if minutes is not None or asked is not None:
        if asked not in (None, MINUTES, minutes):
            begun = "some tokens" if minutes is None else f"{minutes:g} minutes"
            note(f"note: the run was begun for {begun}, which it keeps")
        fixed = ("minutes", "tokens", "ramp_tokens", "warmup", "evaluate_tokens")
        kept = {"minutes": None} | {name: own[name] for name in fixed if name in own}
        pairs = zip(recipe.stages, own["stages"], strict=False)
        stages = [dataclasses.replace(stage, tokens=then["tokens"]) for stage, then in pairs]
        stages += recipe.stages[len(stages) :]
        recipe = dataclasses.replace(recipe, **kept, stages=tuple(stages))
    added = check_same(file, state, recipe)
    if added and whole.chief:
        names = ", ".join(f"{name} = {value}" for name, value in added.items())
        note(f"note: {file} is older than some settings, which have their defaults: {names}")
    return recipe


# ---- what is asked for ---------------------------------------------------------------------------


def _by_flags(name: str, given: dict[str, Any]) -> Recipe:
    """The recipe of today's flags: one stage of sparse attention."""
    exclude(preset=given.get("preset"), config=given.get("config"))
    rows = {"steps": given.get("steps", 1), "batch": given.get("batch", BATCH)}
    for flag, value in rows.items():
        if not 1 <= value <= 10**9:
            raise ValueError(f"{flag} = {value}: must be a whole number, 1 to {10**9}")
    seq_len = given.get("seq_len", SEQ_LEN)
    tokens = rows["batch"] * seq_len
    stage = Stage(tokens=max(1, rows["steps"] * tokens), seq_len=seq_len, batch_tokens=tokens)
    model = str(given.get("config") or given.get("preset") or "nano")
    rest = {name: given[name] for name in ("lr", "seed") if name in given}
    return Recipe(name=name or "run", model=model, stages=(stage,), **rest)


def _by_minutes(minutes: float | None, words: list[str], given: dict[str, Any]) -> Recipe:
    """The recipe that the machine's speed allows."""
    from dsv4.train.dial import dialled

    if minutes is None:
        if recipes := [word for word in words if is_recipe(word)]:
            rest = " ".join(word for word in words if word != recipes[0])
            raise ValueError(f"the recipe comes first: dsv4 train {recipes[0]} {rest}")
        if given:
            flag, value = next(iter(given.items()))
            word = f"--{flag.replace('_', '-')} {value}"
            raise ValueError(f"{word} needs a folder to train into: dsv4 train FOLDER {word}")
        raise ValueError("name a recipe or a folder, or give --minutes; see dsv4 train --help")
    seed = given.pop("seed", 0)
    _refuse(given)
    return override(dialled(minutes, seed, note), words)


def _saved(out: Path) -> Recipe:
    """The recipe of a run that is there."""
    from dsv4.train.checkpoints import Checkpoints
    from dsv4.train.pretrain import CHECKPOINTS

    state = Checkpoints(out / CHECKPOINTS).newest(lambda line: None)
    return Recipe.from_dict(state["recipe"])


def _refuse(given: dict[str, Any]) -> None:
    """Raises ValueError for flags where settings are meant."""
    for flag in given:
        word = f"--{flag.replace('_', '-')}"
        raise ValueError(f"{word} belongs to dsv4 train FOLDER: here it is {FLAGS[flag]}=…")


def _check_minutes(minutes: float | None, steps: int | None) -> None:
    if minutes is None:
        return
    if steps is not None:
        raise ValueError("--steps and --minutes exclude each other: give one of them")
    if not (math.isfinite(minutes) and 0 < minutes <= 10**7):
        raise ValueError(f"minutes = {minutes}: must be a number above 0 to {10**7:,}")


# ---- what is printed -----------------------------------------------------------------------------


def _progress() -> Progress:
    from dsv4.cli.bar import Bar
    from dsv4.train.progress import Lines

    return Bar() if sys.stdout.isatty() else Lines(say)


@contextmanager
def telling(kept: Callable[[], str]) -> Iterator[None]:
    """Add to what ends a run in the middle what is kept of it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        named = error.filename and error.strerror
        reason = f"{error.filename}: {error.strerror}" if named else str(error)
        raise OSError(f"{reason}; {kept()}") from error
    except KeyboardInterrupt as error:
        with suppress(OSError):  # of a terminal that was closed
            note(f"dsv4: interrupted; {kept()}")
        raise typer.Exit(exit_code(error)) from None
