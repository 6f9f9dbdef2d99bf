"""A nano-sized checkpoint as of V4-Flash-0731, from load to chat, as a user meets it."""

import json

import pytest
import torch
from typer.testing import CliRunner

import dsv4
from dsv4.checkpoint.convert import convert
from dsv4.cli import app


def run(*words, text=None):
    result = CliRunner().invoke(app, [str(word) for word in words], input=text)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_its_main_model_is_nano(dspark_folder):
    ids = torch.arange(3, 43).unsqueeze(0)
    ours, nano = (dsv4.load(path, torch.float32) for path in (dspark_folder, None))
    assert len(ours.mtp) == 3 and ours.config.is_dspark and not nano.config.is_dspark
    with torch.no_grad():
        assert torch.equal(ours(ids), nano(ids))


def test_inspect_and_generate(dspark_folder):
    found = json.loads(run("inspect", dspark_folder, "--json"))
    assert found["mtp_tensors"] == 3 * (29 + 6 * 16) + 10 and found["shards"] == 6 + 2 + 3
    assert "3 stages, blocks of 5 tokens" in run("inspect", dspark_folder)
    words = ("--temperature", "0", "--max-tokens", "8")
    ours = run("generate", dspark_folder, "--prompt", "The water", *words)
    assert ours.strip() == run("generate", "--prompt", "The water", *words).strip()


@pytest.mark.parametrize("experts", ["fp4", "fp8", "bf16"])
def test_converts(experts, dspark_folder, tmp_path):
    folder = convert(dspark_folder, tmp_path / "out", experts=experts).folder
    assert dsv4.load(folder).config.draft_stages == 3


def test_chats(dspark_folder):
    words = (dspark_folder, "--max-tokens", "4", "--seed", "1")
    assert run("chat", *words, text="Hello\n/quit\n").strip()
