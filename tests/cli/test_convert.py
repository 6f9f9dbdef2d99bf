"""`dsv4 convert` as a user runs it, and the cache's size in `dsv4 inspect`."""

import json

import pytest

from dsv4.checkpoint import convert as module
from dsv4.config import Config
from dsv4.model.cache_size import cache_bytes

from .test_checkpoint import SMALL, fails, run


@pytest.fixture
def source(tmp_path):
    """A small checkpoint in the released form."""
    config = tmp_path / "small.json"
    config.write_text(Config.from_preset("nano").replace(**SMALL).to_json())
    run("init", tmp_path / "source", "--config", config)
    return tmp_path / "source"


def test_convert_there_and_back(source, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    (source / "notes.txt").write_text("mine")
    text = run("convert", source, there, "--experts", "fp8", "--dense", "bf16")
    assert text.startswith(f"{there}: experts fp8, dense bf16, 5 shards, ")
    assert "every value is kept" in text and "not copied: notes.txt" in text
    assert Config.load(there).expert_dtype == "fp8"
    run("convert", there, back, "--dense", "fp8", "--experts", "fp4", "--shard-size", "100KB")
    assert Config.load(back) == Config.load(source)
    shards = [file.stat().st_size for file in back.glob("*.safetensors")]
    assert len(shards) > 5
    text = run("convert", source, tmp_path / "bf16", "--dense", "bf16", "--experts", "bf16")
    assert "experts bf16, dense bf16" in text


def test_nano_is_the_packaged_model(tmp_path):
    text = run("convert", "nano", tmp_path / "out", "--experts", "fp8")
    assert "experts fp8, dense fp8, 9 shards" in text and "every value is kept" in text
    assert "not copied: NOTICE, training.json" in text


def test_rounding_needs_consent(source, tmp_path):
    run("init", tmp_path / "f32", "--config", tmp_path / "small.json", "--dtype", "f32")
    words = fails(
        "convert", tmp_path / "f32", tmp_path / "out", "--experts", "fp4", "--dense", "fp8"
    )
    assert "embed.weight cannot be held exactly: 64 of its 64 rows" in words
    assert "--allow-rounding" in words
    text = run(
        "convert",
        tmp_path / "f32",
        tmp_path / "out",
        "--experts",
        "fp4",
        "--dense",
        "fp8",
        "--allow-rounding",
    )
    assert "rounded: " in text and "FP4 groups of 32" in text and "every value" not in text


def test_interrupted_and_resumed(source, tmp_path, monkeypatch):
    real, begun = module.ShardWriter, []

    def third(*args):
        begun.append(args)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "ShardWriter", third)
    words = fails("convert", source, tmp_path / "out", "--experts", "bf16", code=130)
    assert "interrupted; finished shards are in" in words and ".out.converting" in words
    text = run("convert", source, tmp_path / "out", "--experts", "bf16")
    assert "2 shards were finished before" in text


def test_bad_input(source, tmp_path):
    out = tmp_path / "out"
    assert "is the source itself" in fails("convert", source, source)
    assert "absent is no folder" in fails("convert", tmp_path / "absent", out)
    assert "flash is a preset, which has no weights" in fails("convert", "flash", out)
    assert "--shard-size 5 apples: must be a size" in fails(
        "convert", source, out, "--shard-size", "5 apples"
    )
    run("convert", source, out)
    assert "already holds a checkpoint" in fails("convert", source, out)
    run("convert", source, out, "--overwrite")


def test_inspect_prints_the_cache():
    text = run("inspect", "flash")
    million, growing = 1 << 20, 21 * (583 + 68) / 4 + 20 * 583 / 128
    size = cache_bytes(Config.from_preset("flash"), million)
    assert f"cache at 1,048,576   {size.total / million:,.1f} bytes a token" in text
    assert f"    entries            {21 * 583 / 4 + 20 * 583 / 128:,.1f}\n" in text
    assert f"    indexer keys       {21 * 17:,.1f}\n" in text
    assert 0 < size.total / million - growing < 60  # rings
    assert "2.0% of a BF16 GQA cache of 8 heads × 128 channels" in text
    found = json.loads(run("inspect", "flash", "--json"))["cache_bytes"]
    assert list(found) == ["65536", "1048576"]
    assert sum(found["1048576"].values()) == size.total
    assert list(json.loads(run("inspect", "nano", "--json"))["cache_bytes"]) == ["65536", "1048576"]
