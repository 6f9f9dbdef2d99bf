"""A small text, tokenised once, and runs on it."""

import numpy as np
import pytest

from dsv4.data import bpe
from dsv4.data.augment import NOTHING
from dsv4.data.build import Input, build
from dsv4.data.document import Document
from dsv4.train.checkpoints import Checkpoints
from dsv4.train.pretrain import CHECKPOINTS, Run
from dsv4.train.recipe import Recipe, Stability, Stage, Text

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


@pytest.fixture(scope="session")
def config_file(make_config, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "config.json"
    changes = {"vocab_size": 400, "num_hidden_layers": 2, "compress_ratios": [8, 4, 0]}
    small = {"hidden_size": 32, "n_routed_experts": 6, "num_experts_per_tok": 2, "index_topk": 2}
    file.write_text(make_config(num_hash_layers=1, **small, **changes).to_json())
    return file


@pytest.fixture
def make_recipe(folder, config_file):
    """Twelve steps of four rows of 32 tokens; `stability` and `stages` as keywords of theirs."""

    def make(steps=12, rows=4, seq_len=32, stages=None, stability=None, **changes):
        batch = rows * seq_len
        one = {"tokens": steps * batch, "seq_len": seq_len, "batch_tokens": batch}
        values = {
            "model": str(config_file),
            "text": (Text(folder=str(folder)),),
            "stages": tuple(Stage(**{**one, **stage}) for stage in stages or [{}]),
            "stability": Stability(**{"window": 0, **(stability or {})}),
            "warmup": 2,
            "lr": 1e-2,
            "evaluate_tokens": 256,
        }
        return Recipe(**(values | changes))

    return make


@pytest.fixture
def run(make_recipe, tmp_path):
    """A run; with `resume` from what its folder holds, telling `say` what it passes over."""

    def make(name="run", resume=False, say=print, **changes):
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        state = Checkpoints(out / CHECKPOINTS).newest(say) if resume else None
        return Run(make_recipe(**changes), out, state=state)

    return make
