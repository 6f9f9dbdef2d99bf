"""Servers for tests."""

import pytest
from server.engines import Scripted, engine_of
from server.running import serving

import dsv4
from dsv4.checkpoint.load import packaged
from dsv4.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.load(packaged())


@pytest.fixture(scope="session")
def shared(tokenizer):
    """One server for all tests that only make it say something."""
    with serving(Scripted(tokenizer), tokenizer) as running:
        yield running


@pytest.fixture
def server(shared):
    shared.engine.jobs.clear()
    return shared


@pytest.fixture(scope="session")
def nano():
    """The packaged model."""
    return dsv4.load()


@pytest.fixture(scope="session")
def real(nano, tokenizer):
    """A server of the packaged model."""
    with serving(engine_of(nano, tokenizer), tokenizer) as running:
        yield running
