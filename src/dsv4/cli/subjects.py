"""Who is asked: a checkpoint, loaded here, or the model of a server behind a URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4.cli.options import leave_out

if TYPE_CHECKING:
    from dsv4.eval.judge import Judge
    from dsv4.eval.subject import Subject

KEY = "DSV4_API_KEY"
JUDGE_KEY = "DSV4_JUDGE_API_KEY"


@dataclass(frozen=True)
class Loads:
    """How checkpoints are loaded: the options of that name, which mean nothing to a server."""

    dtype: str | None = None
    mode: str | None = None
    max_resident: str | None = None
    threads: int | None = None
    revision: str | None = None


def subject_of(
    model: str, name: str | None, key: str | None, loads: Loads, option: str = "model"
) -> Subject:
    """Of a checkpoint, or of a URL, whose model has a `name`, which the `option` gave.

    Raises ValueError, SubjectError.
    """
    if model.startswith(("http://", "https://")):
        leave_out("a URL", "asks a server", vars(loads))
        return _remote(model, name, key or os.environ.get(KEY))
    leave_out("a checkpoint", "is asked here", {option: name, "api_key": key})
    return _here(model, loads)


@contextmanager
def judge_of(model: str | None, name: str | None) -> Iterator[Judge | None]:
    """The judge that a checkpoint or a URL is; None where none is named. Raises as `subject_of`."""
    if model is None:
        leave_out("no judge", "is named by --judge", {"judge_model": name})
        yield None
        return
    from dsv4.eval.judge import Judge

    key = os.environ.get(JUDGE_KEY) if model.startswith(("http://", "https://")) else None
    judge = Judge(subject_of(model, name, key, Loads(), "judge_model"))
    try:
        yield judge
    finally:
        judge.close()


def _remote(url: str, model: str | None, key: str | None) -> Subject:
    from dsv4.eval.endpoint import UrlSubject
    from dsv4.remote.http import base_url

    return UrlSubject(base_url(url, "the URL"), model=model, key=key)


def _here(checkpoint: str, loads: Loads) -> Subject:
    from dsv4.checkpoint.revision import effort_revision
    from dsv4.cli.loading import Loading
    from dsv4.engine.constraint import Constraints
    from dsv4.engine.engine import Engine
    from dsv4.eval.inprocess import EngineSubject

    loading = Loading(
        checkpoint,
        loads.dtype,
        loads.mode,
        loads.max_resident,
        False,
        loads.threads,
        loads.revision,
    )
    model, tokenizer = loading.load()
    constraints = Constraints(tokenizer, model.config.vocab_size, [model.config.eos_token_id])
    engine = Engine(model, constraints)
    name = loading.folder.resolve().name
    return EngineSubject(engine, tokenizer, name, effort_revision(model.config, loads.revision))
