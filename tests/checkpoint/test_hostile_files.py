"""What is no regular file, cannot be read, or does not fit the disk; and what is left behind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import dsv4
from dsv4.checkpoint import convert as conversion
from dsv4.checkpoint import official, reader
from dsv4.checkpoint.convert import convert, workspace_of
from dsv4.checkpoint.errors import CheckpointError
from dsv4.checkpoint.load import packaged
from dsv4.checkpoint.official import save
from dsv4.checkpoint.reader import INDEX_FILE, Checkpoint
from dsv4.files import FileError, read_json, size_text
from dsv4.tokenizer import Tokenizer, TokenizerError

from .conftest import random_model, tiny
from .test_convert import interrupt

LAYER_0 = "model-00002-of-00006.safetensors"


def held(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


# ---- no regular files ------------------------------------------------------------------------

KINDS = {
    "a named pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", INDEX_FILE, LAYER_0])
def test_in_place_of_a_file_of_a_checkpoint(kind, name, folder):
    (folder / name).unlink()
    KINDS[kind](folder / name)
    with pytest.raises(
        CheckpointError, match=rf"{name} is {kind}: a regular file belongs"
    ) as error:
        Checkpoint(folder)
    assert name != "config.json" or str(error.value).count(str(folder)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json"])
def test_in_place_of_a_file_that_is_copied(kind, name, folder, model, tmp_path):
    (folder / name).unlink(missing_ok=True)
    KINDS[kind](folder / name)
    words = rf"{name} is {kind}: a regular file belongs there"
    with pytest.raises(FileError, match=words):
        convert(folder, tmp_path / "out")
    with pytest.raises(FileError, match=words):
        save(model.state_dict(), tiny(), tmp_path / "out", tokenizer_files=[folder / name])
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]
    if name == "tokenizer.json":
        with pytest.raises(TokenizerError, match=words):
            Tokenizer.load(folder / name if kind != "a folder" else folder)


def test_json_that_is_too_deep_or_too_long(tmp_path):
    file = tmp_path / "x.json"
    for text, words in (
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 3000 + "1" + "}" * 3000, "nested too deeply"),
        ("1" * 5000, "not JSON"),
        ('{"a": 1', "not JSON"),
        (" " * 2000 + "1", "more than 1,000 bytes"),
    ):
        file.write_text(text)
        with pytest.raises(FileError, match=words) as error:
            read_json(file, 1000 if "1,000" in words else 1 << 24)
        assert str(file) in str(error.value) and "\n" not in str(error.value)
    file.write_bytes(b'"\xff"')
    with pytest.raises(FileError, match="no UTF-8 text"):
        read_json(file, 1 << 20)


def test_an_unreadable_shard_is_said_to_be_unreadable(folder, monkeypatch):
    real = reader.safe_open

    def refused(path, **options):
        if path.name == LAYER_0:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(reader, "safe_open", refused)
    with pytest.raises(CheckpointError, match=f"{LAYER_0} cannot be read: Permission denied"):
        Checkpoint(folder)
    monkeypatch.undo()
    (folder / LAYER_0).unlink()
    with pytest.raises(CheckpointError, match=f"{LAYER_0} is missing$"):
        Checkpoint(folder)


@pytest.mark.parametrize("place", ["a\0b", "\ud800", "x" * 5000, "", "."])
def test_names_that_no_file_can_have(place, folder):
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"]["embed.weight"] = place
    (folder / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as error:
        Checkpoint(folder)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


def test_a_table_rewritten_under_a_loaded_model_changes_nothing(folder):
    model, before = dsv4.load(folder), Checkpoint(folder).tensors["layers.0.ffn.gate.tid2eid"]
    ids = torch.arange(1, 20).view(1, -1)
    with torch.inference_mode():
        want = model(ids)
        data = bytearray((folder / before.file).read_bytes())
        length = int.from_bytes(data[:8], "little")
        start, end = json.loads(data[8 : 8 + length])[before.name]["data_offsets"]
        with (folder / before.file).open("r+b") as file:
            file.seek(8 + length + start)
            file.write(b"\x7f" * (end - start))
        assert torch.equal(model(ids), want)


# ---- a full disk -----------------------------------------------------------------------------


def test_a_full_disk_is_seen_before_anything_is_written(folder, model, tmp_path, monkeypatch):
    usage, before = shutil.disk_usage(tmp_path), held(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1234))
    words = r"needs 1\.\d MB more, 1\.2 kB are free: make room or choose another disk"
    with pytest.raises(CheckpointError, match=words):
        save(model.state_dict(), tiny(), folder, overwrite=True)
    with pytest.raises(CheckpointError, match=words):
        convert(folder, tmp_path / "a" / "b")
    assert held(folder) == before and [entry.name for entry in tmp_path.iterdir()] == ["ckpt"]


def test_a_disk_that_fills_while_it_is_written(folder, model, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    before = held(folder)
    for module in (official, conversion):
        interrupt(monkeypatch, after=2, error=full, module=module)
    words = r"could not be written and is as it was: No space left on device; make room, or"
    with pytest.raises(CheckpointError, match=rf"ckpt {words}"):
        save(random_model(tiny(), 1).state_dict(), tiny(), folder, overwrite=True)
    assert held(folder) == before and [entry.name for entry in tmp_path.iterdir()] == ["ckpt"]
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="No space left on device; finished shards are kept "):
        convert(folder, out)
    assert not out.exists() and workspace_of(out).exists()
    monkeypatch.undo()
    assert convert(folder, out).resumed == 2


def test_a_limit_on_the_size_of_files(folder, tmp_path):
    """The system itself refuses: a file may have 100,000 bytes, the shards have more."""
    script = (
        "import resource, sys, dsv4.checkpoint.convert as c\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: c.convert(sys.argv[1], sys.argv[2])\n"
        "except c.CheckpointError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert "File too large" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


# ---- what is left behind ---------------------------------------------------------------------


def test_a_refused_conversion_names_what_it_leaves_and_leaves_nothing_empty(folder, tmp_path):
    out, file = tmp_path / "out", folder / "model-00003-of-00006.safetensors"
    stored = Checkpoint(folder).tensors["layers.1.ffn.experts.3.w1.scale"]
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start = json.loads(data[8 : 8 + length])[stored.name]["data_offsets"][0] + 8 + length
    data[start] = 255
    file.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        convert(folder, out)
    text = str(error.value)
    assert "layers.1.ffn.experts.3.w1.weight holds NaN" in text
    assert f"finished shards are kept in {workspace_of(out)}" in text and "\n" not in text
    shutil.rmtree(workspace_of(out))
    first = folder / "model-00001-of-00006.safetensors"
    whole = bytearray(first.read_bytes())
    whole[-2:] = b"\xc0\x7f"  # BF16 NaN
    first.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"embed\.weight holds NaN or infinity"):
        convert(folder, tmp_path / "x" / "y")
    assert [entry.name for entry in tmp_path.iterdir()] == ["ckpt"]


def test_a_killed_save_is_cleared_by_the_next(folder, model, tmp_path):
    script = (
        "import sys, time, torch, dsv4\n"
        "from dsv4.checkpoint import official\n"
        "from dsv4.config import Config\n"
        "class Slow(official.ShardWriter):\n"
        "    def write(self, *args):\n"
        "        print('writing', flush=True); time.sleep(60)\n"
        "official.ShardWriter = Slow\n"
        "config = Config.load(sys.argv[1])\n"
        "model = dsv4.Transformer(config); model.initialize(0)\n"
        "dsv4.save(model.state_dict(), config, sys.argv[2])\n"
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(out)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    process.stdout.readline()
    with pytest.raises(CheckpointError, match=r"another save is at work in .*\.out\.saving"):
        save(model.state_dict(), tiny(), out)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / ".out.saving").exists() and not out.exists()
    save(model.state_dict(), tiny(), out)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ckpt", "out"]


def test_a_save_killed_between_its_moves_loses_nothing(folder, model, tmp_path):
    """The old checkpoint stands aside: the next save puts it back before anything else."""
    before = held(folder)
    workspace = tmp_path / ".ckpt.saving"
    workspace.mkdir()
    folder.rename(workspace / "old")
    (workspace / "new").mkdir()
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        save(model.state_dict(), tiny(), folder)
    assert held(folder) == before and not workspace.exists()


# ---- sizes and vocabularies ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (49_999, "50.0 kB"),
        (999_999, "1.0 MB"),
        (159_609_485_896, "159.6 GB"),
        (892_727_580_904_000, "892.7 TB"),
    ],
)
def test_sizes_are_readable(nbytes, text):
    assert size_text(nbytes) == text


def test_a_tokenizer_larger_than_the_vocabulary():
    tokenizer = Tokenizer.load(packaged())
    tokenizer.check_fits(8192)
    with pytest.raises(TokenizerError, match=r"ids up to 8,191, the model's vocabulary has 8,191"):
        tokenizer.check_fits(8191)
