"""The packaged model as a subject: in this process, and behind a URL."""

import pytest
from server.engines import engine_of
from server.running import serving

import dsv4
from dsv4.checkpoint.load import packaged
from dsv4.eval.endpoint import UrlSubject
from dsv4.eval.inprocess import EngineSubject
from dsv4.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.load(packaged())


@pytest.fixture(scope="session")
def running(tokenizer):
    """A server of the packaged model."""
    with serving(engine_of(dsv4.load(), tokenizer), tokenizer) as server:
        yield server


@pytest.fixture(scope="session")
def inside(running, tokenizer):
    """The server's own engine, asked directly."""
    return EngineSubject(running.engine, tokenizer, "nano", close=lambda: None)


@pytest.fixture
def exact(running):
    """On native operators alone a packed model's logits depend on neither pieces nor neighbours."""
    if running.engine.model.twin is None:
        pytest.skip("the native module is not there: logits depend on the batch")


@pytest.fixture(scope="session")
def outside(running):
    subject = UrlSubject(running.url)
    yield subject
    subject.close()
