"""A listener that keeps what it hears, and small models to run."""

from __future__ import annotations

import threading

import pytest

import dsv4
from dsv4.engine.engine import Engine
from dsv4.engine.request import Finished, Job, Token, Usage
from dsv4.sampling import Sampling


class Heard:
    """All that was said of one job."""

    def __init__(self, stop_after: int | None = None):
        self.ids: list[int] = []
        self.told: list[Token] = []
        self.usage: Usage | None = None
        self.end: Finished | None = None
        self._over, self._stop_after = threading.Event(), stop_after

    def prefilled(self, usage: Usage, prompt=()) -> None:
        assert not self.ids and self.end is None
        self.usage, self.prompt = usage, prompt

    def tokens(self, new) -> bool:
        assert self.usage is not None and self.end is None
        self.told += new
        self.ids += [token.id for token in new]
        return self._stop_after is not None and len(self.ids) >= self._stop_after

    def finished(self, end: Finished) -> None:
        assert self.end is None
        self.end = end
        self._over.set()

    def wait(self) -> Heard:
        assert self._over.wait(120), "the job never ended"
        return self


@pytest.fixture(scope="session")
def nano():
    """The packaged model."""
    return dsv4.load()


@pytest.fixture
def make_engine(nano):
    """Engines that are closed at the end."""
    made = []

    def make(model=None, **options):
        given = {"slots": 8, "memory": 256 << 20, "identity": b"nano"} | options
        made.append(Engine(model or nano, **given))
        return made[-1]

    yield make
    for engine in made:
        engine.close(0)


@pytest.fixture
def ask():
    """Submit a prompt."""

    def submit(engine, ids, stop_after=None, *, number=0, **sampling):
        heard = Heard(stop_after)
        options = {"temperature": 0.0, "max_tokens": 16} | sampling
        heard.job = engine.submit(Job(ids, Sampling(**options), number), heard)
        return heard

    return submit
