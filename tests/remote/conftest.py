"""Fronts that are closed at the end."""

import pytest

from dsv4.checkpoint.load import packaged
from dsv4.remote.engine import RemoteEngine
from dsv4.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.load(packaged())


@pytest.fixture
def front(tokenizer):
    """An engine of the servers at some URLs, each of which was asked."""
    made = []

    def make(*urls, **options):
        given = {"period": 0.1, "context": 4096} | options
        made.append(RemoteEngine(urls, tokenizer, **given))
        made[-1].wait(20)
        return made[-1]

    yield make
    for engine in made:
        engine.close(0.0)
