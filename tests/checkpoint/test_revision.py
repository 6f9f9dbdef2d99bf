"""The revision of the effort texts: a flag, the encoder's constants, config.json, the draft."""

import json
import os

import pytest

import dsv4
from dsv4.checkpoint.convert import convert
from dsv4.checkpoint.encoder import source_revision
from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.reader import Checkpoint
from dsv4.checkpoint.revision import as_written, effort_revision, of_tensors
from dsv4.config import Config, ConfigError
from dsv4.protocol.constants import EFFORT_PREFIXES

from .conftest import tiny

FIRST, LAST = EFFORT_PREFIXES["2026-07"]["high"], EFFORT_PREFIXES["2026-07"]["max"]
APRIL = f"import re\n\nREASONING_EFFORT_MAX = (\n    {FIRST[:70]!r}\n    {FIRST[70:]!r}\n)\n"
JULY = (
    f'DEFAULT_REASONING_EFFORT = "low"\nREASONING_EFFORT_PROMPTS: dict[str, str] = {{\n'
    f'    "low": "", "high": {FIRST!r}, "max": {LAST!r},\n}}\n'
)
SOURCES = {
    APRIL: "2026-04",
    JULY: "2026-07",
    "# Beyond maximum is not ours\n" + APRIL: "2026-04",
    'EFFORT_HIGH = "a"\nEFFORT_LAST = "b"\nEFFORTS = {"low": "", "high": EFFORT_HIGH, '
    '"max": EFFORT_LAST + "c"}': "2026-07",
    f'EFFORTS = {{"low": "", "high": "", "max": {FIRST!r}}}': "2026-04",
    'DEFAULT_EFFORT = "low"': "2026-07",
    'DEFAULT_EFFORT = "high"\nEFFORT_MAX = "text"': "2026-04",
    f"_EFFORT_BEYOND = {LAST!r}": "2026-07",
    "def encode_messages(messages):\n    return ''\n": None,
    "": None,
}


@pytest.mark.parametrize("source", SOURCES)
def test_constants_of_an_encoder(source, tmp_path):
    assert source_revision(source, tmp_path / "encoding_dsv4.py") == SOURCES[source]


def put(folder, source, name="encoding_dsv4.py"):
    (folder / "encoding").mkdir(exist_ok=True)
    (folder / "encoding" / name).write_text(source, encoding="utf-8")


def test_the_order_of_what_tells_it(folder):
    assert effort_revision(folder) == "2026-04"  # no draft of blocks among the tensors
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"effort_revision": "2026-07"}))
    assert effort_revision(folder) == "2026-07"
    put(folder, APRIL)
    put(folder, JULY, "a_test.py")  # the release's own file is asked first
    assert effort_revision(folder) == "2026-04"
    assert effort_revision(folder, "2026-07") == "2026-07"
    with pytest.raises(CheckpointError, match="revision '2025' is not known: choose 2026-04 or"):
        effort_revision(folder, "2025")
    assert effort_revision(tiny()) == "2026-04"
    assert effort_revision(Config.from_preset("flash-0731")) == "2026-07"
    (folder / "config.json").write_text(json.dumps(values | {"effort_revision": "2025"}))
    with pytest.raises(CheckpointError, match=r"effort_revision = '2025': must be 2026-04 or"):
        effort_revision(folder)
    with pytest.raises(ConfigError):
        tiny().replace(effort_revision="later")


def test_the_encoder_is_never_run(folder):
    put(folder, f"raise SystemExit('run')\n{JULY}")
    assert effort_revision(folder) == "2026-07"


def test_a_draft_among_the_tensors():
    names = ["mtp.0.main_proj.weight", "mtp.2.markov_head.markov_w1.weight"]
    assert all(of_tensors(["embed.weight", name]) == "2026-07" for name in names)
    assert of_tensors(["mtp.0.e_proj.weight"]) == "2026-04"
    july = tiny().replace(effort_revision="2026-07")
    assert as_written(july, names).effort_revision is None
    assert as_written(july, []).effort_revision == "2026-07"
    april = tiny().replace(effort_revision="2026-04")  # as June's checkpoints with a draft
    assert as_written(april, names).effort_revision == "2026-04"


def test_what_is_written_keeps_it(folder, tmp_path):
    put(folder, JULY)
    model = dsv4.load(folder, dtype=dsv4.load().dtype)
    assert model.config.effort_revision == "2026-07"
    saved = dsv4.save(model.state_dict(), model.config, tmp_path / "saved")
    converted = convert(folder, tmp_path / "converted").folder
    again = convert(converted, tmp_path / "again", experts="bf16").folder
    for written in (saved, converted, again):
        assert effort_revision(written) == "2026-07"
    assert "effort_revision" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("source", ["x = (", "\0", "(" * 100_000, "x = " + "-" * 300_000 + "1"])
def test_an_encoder_that_is_no_source(source, folder):
    put(folder, source)
    with pytest.raises(CheckpointError, match=r"encoding_dsv4\.py is no Python source") as error:
        Checkpoint(folder)
    assert "\n" not in str(error.value) and "name their revision" in str(error.value)
    for flag in ("2026-04", "2026-07"):  # who says the revision needs no encoder
        assert effort_revision(folder, flag) == flag
        assert dsv4.load(folder, revision=flag).config.effort_revision == flag
    with pytest.raises(CheckpointError, match="revision '2025' is not known"):
        dsv4.load(folder, revision="2025")


def test_an_encoder_that_is_no_file(folder):
    (folder / "encoding").mkdir()
    file = folder / "encoding" / "encoding_dsv4.py"
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match=r"encoding_dsv4\.py is a named pipe"):
        Checkpoint(folder)
    file.unlink()
    file.write_bytes(b"x = '\xff'")
    with pytest.raises(CheckpointError, match=r"encoding_dsv4\.py is no UTF-8 text"):
        Checkpoint(folder)
