"""Converting that is interrupted, resumed, mixed up, and measured."""

import fcntl
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dsv4.checkpoint.convert import convert, workspace_of
from dsv4.checkpoint.folder import write_index
from dsv4.checkpoint.layout import DTYPE_NAMES, layout, shard_count, shard_file
from dsv4.checkpoint.official import load_into
from dsv4.checkpoint.reader import CheckpointError
from dsv4.model.transformer import Transformer

from .conftest import tiny
from .test_convert import files, interrupt

OPTIONS = {"experts": "fp8", "dense": "bf16"}


@pytest.fixture
def whole(folder, tmp_path):
    """What an uninterrupted conversion writes."""
    return files(convert(folder, tmp_path / "whole", **OPTIONS).folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("after", [0, *random.Random(0).sample(range(1, 6), 2)])
def test_resume_equals_never_having_stopped(after, error, folder, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt(monkeypatch, after=after, error=error)
    with pytest.raises(error):
        convert(folder, out, **OPTIONS)
    monkeypatch.undo()
    new = workspace_of(out) / "new"
    assert not out.exists() and len(list(new.glob("*.safetensors"))) == after
    kept = {file.name: file.stat() for file in new.glob("*.safetensors")}
    done = convert(folder, out, **OPTIONS)
    assert files(out) == whole and done.resumed == after and not done.damaged
    for name, stat in kept.items():  # not written again
        now = (out / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert not workspace_of(out).exists()


def test_killed_and_resumed(folder, whole, tmp_path):
    """SIGKILL between and within shards, again and again, until it comes through."""
    out, picks = tmp_path / "out", random.Random(1)
    command = f"""
import time
from dsv4.checkpoint import convert, recode
real = convert.recode
def slow(*args):
    time.sleep(0.003)
    return real(*args)
convert.recode = slow
print("ready", flush=True)
convert.convert({str(folder)!r}, {str(out)!r}, experts="fp8", dense="bf16")
"""
    source = os.pathsep.join(path for path in sys.path if path)
    killed = 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONPATH": source},
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        try:
            process.wait(picks.uniform(0.1, 0.5) * (1 + killed))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += not out.exists()
        process.stdout.close()
        if out.exists():
            break
    assert killed and files(out) == whole


@pytest.mark.parametrize("harm", ["bit", "cut", "gone"])
def test_damaged_shard_in_the_workspace(harm, folder, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt(monkeypatch, after=3)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, out, **OPTIONS)
    monkeypatch.undo()
    shard = sorted((workspace_of(out) / "new").glob("*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-7] ^= 4
    if harm == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data if harm == "bit" else data[:-1])
    done = convert(folder, out, **OPTIONS)
    assert done.damaged == [shard.name] and done.resumed == 2
    assert files(out) == whole


def test_other_options_do_not_mix(folder, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, out, **OPTIONS)
    monkeypatch.undo()
    for other in ({"experts": "bf16"}, {**OPTIONS, "shard_size": 10**6}):
        words = r"\.out\.converting holds .* other options \(--experts fp8 --dense bf16\): finish"
        with pytest.raises(CheckpointError, match=words):
            convert(folder, out, **other)
    index = sorted(folder.glob("*.safetensors"))[-1]
    stat = index.stat()
    os.utime(index, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(CheckpointError, match="source that has changed since"):
        convert(folder, out, **OPTIONS)
    os.utime(index, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    convert(folder, out, **OPTIONS)
    assert files(out) == whole


def test_options_may_change_while_nothing_is_finished(folder, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt(monkeypatch, after=0)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, out, experts="bf16")
    monkeypatch.undo()
    convert(folder, out, **OPTIONS)
    assert files(out) == whole


def test_two_at_once_are_refused(folder, tmp_path):
    workspace = workspace_of(tmp_path / "out")
    workspace.mkdir()
    with (workspace / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another conversion is at work in"):
            convert(folder, tmp_path / "out")
    convert(folder, tmp_path / "out")


# ---- memory ----------------------------------------------------------------------------------

MEMORY = """
import sys, threading, time, torch
from dsv4.checkpoint.convert import convert
torch.set_num_threads(1)
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10
convert({warm!r}, {warm!r} + "_out", experts={experts!r}, dense={dense!r}, allow_rounding=True)
before, peak, over = anonymous(), [0], threading.Event()
def watch():
    while not over.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.0005)
watcher = threading.Thread(target=watch)
watcher.start()
convert({source!r}, {out!r}, experts={experts!r}, dense={dense!r}, allow_rounding=True)
over.set()
watcher.join()
print(peak[0] - before)
"""


def random_checkpoint(config, folder):
    """Shards of random bytes that are valid numbers, made without a model."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors, count = layout(config), shard_count(config)
    for shard in range(count):
        made = {}
        for name, spec in tensors.items():
            if spec.shard != shard:
                continue
            if name.endswith("tid2eid"):
                made[name] = torch.zeros(spec.shape, dtype=spec.dtype)
            elif DTYPE_NAMES[spec.dtype] == "F8_E8M0":
                made[name] = torch.full(spec.shape, 0.25).to(spec.dtype)
            elif spec.dtype is torch.int8:
                made[name] = torch.randint(-128, 128, spec.shape, generator=generator).to(
                    spec.dtype
                )
            else:
                made[name] = torch.randn(spec.shape, generator=generator).to(spec.dtype)
        save_file(made, folder / shard_file(shard, count), metadata={"format": "pt"})
    write_index(folder, tensors)
    (folder / "config.json").write_text(config.to_json())
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(("experts", "dense"), [("fp8", None), ("bf16", "bf16")])
def test_memory_is_that_of_one_tensor(experts, dense, folder, tmp_path):
    """Anonymous memory: the largest recoded tensor has 2 MB in float32, a shard about 60 MB."""
    config = tiny().replace(
        hidden_size=1024,
        moe_intermediate_size=512,
        n_routed_experts=32,
        num_hidden_layers=2,
        compress_ratios=(0, 4),
        num_nextn_predict_layers=0,
        vocab_size=512,
    )
    source = random_checkpoint(config, tmp_path / "source")
    script = MEMORY.format(
        warm=str(folder),
        source=str(source),
        out=str(tmp_path / "out"),
        experts=experts,
        dense=dense,
    )
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    largest = max(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    tensor = 4 * 1024 * 512
    print(f"{int(done.stdout) / 2**20:.1f} MiB above, shard {largest / 2**20:.1f} MiB")
    assert largest > 20 * tensor
    assert int(done.stdout) < 12 * tensor


# ---- another reader --------------------------------------------------------------------------


def test_transformers_reads_the_converted_checkpoint(tmp_path):
    """Quantised, then converted to BF16: the logits of the source's own values."""
    from transformers import DeepseekV4ForCausalLM

    from dsv4.checkpoint.official import save

    from .conftest import random_model

    config = tiny().replace(index_n_heads=16)  # with fewer heads scores tie at zero
    source = save(random_model(config, seed=5).state_dict(), config, tmp_path / "source")
    done = convert(source, tmp_path / "out", experts="bf16", dense="bf16")
    theirs, info = DeepseekV4ForCausalLM.from_pretrained(
        done.folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["error_msgs"]
    ours = Transformer(config)
    load_into(ours, source)
    ids = torch.randint(0, config.vocab_size, (2, 150), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want, got = theirs(ids).logits, ours.eval()(ids)
    assert (got - want).abs().max() <= 1e-4 * want.std()
