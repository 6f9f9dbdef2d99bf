"""A small text, tokenised once, and runs on it."""

import numpy as np
import pytest

from dsv4.data import bpe
from dsv4.data.augment import NOTHING
from dsv4.data.build import Input, build
from dsv4.data.document import Document
from dsv4.train.pretrain import Run
from dsv4.train.settings import Settings
from dsv4.train.state import load_state

WORDS = ["cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run", "over", "hills", "rain"]


@pytest.fixture(scope="session")
def documents():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(400)]
    return [Document(t) if i % 2 else Document.exchange(t, t[::-1]) for i, t in enumerate(texts)]


@pytest.fixture(scope="session")
def folder(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    texts = ("".join(s.text for s in d.segments() if not s.control) for d in documents)
    bpe.save_bpe(bpe.train_bpe(texts, 400), folder, 1024)
    words = Input("words", lambda: iter(documents), "words", "words: own")
    build([words], folder, vocab_size=400, context=1024, augment=NOTHING)
    return folder


@pytest.fixture
def run(folder, tmp_path, make_config):
    def make(name="run", resume=False, data=folder, **changes):
        config = make_config(vocab_size=400, num_hidden_layers=3, compress_ratios=[0, 4, 8, 0])
        values = {"steps": 12, "batch": 4, "seq_len": 32, "warmup": 2, "lr": 1e-2, **changes}
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        settings = Settings(**values)
        state = load_state(out / "state.pt", config, settings) if resume else None
        return Run(config, settings, data, out, state)

    return make
