"""A capped model: fewer experts in memory, the same tokens, and errors that name the remedy."""

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dsv4
from dsv4.model import residency
from dsv4.model.residency import PROCESS, pass_bytes
from dsv4.ops import native

module = native.module()
pytestmark = pytest.mark.skipif(module is None, reason="the native module is not built")

BYTES = 512 * 512 // 2 + 512 * 512 // 32  # of a matrix of LARGE's experts, with scales
MATRIX = BYTES + 4 * mmap.PAGESIZE  # in whole pages
EXPERTS = 3 * 64 * 3 * BYTES
LARGE = {
    "hidden_size": 512,
    "moe_intermediate_size": 512,
    "n_routed_experts": 64,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 0,
    "compress_ratios": [0, 4, 16],
    "num_hash_layers": 1,
}
MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(make_checkpoint):
    return make_checkpoint(spread=0.05, **LARGE)


def always(folder):
    """Bytes that a cap must leave beside experts: the message of a cap that is too small says."""
    with pytest.raises(ValueError, match="max_resident = 1 bytes") as caught:
        dsv4.load(folder, max_resident=1)
    return int(str(caught.value).rsplit(" ", 1)[1].removesuffix("MiB")) * MIB


@pytest.fixture
def capped(folder, monkeypatch):
    """Models with room for some experts, and their residencies; the process counts as small."""

    def make(room, mode="fast", **changes):
        made = []
        found = module.Residency

        def keep(cap, fixed, mapped):
            fixed = changes.get("fixed", fixed)
            made.append(found(fixed + room, fixed, changes.get("mapped", mapped)))
            return made[-1]

        monkeypatch.setattr(module, "Residency", keep)
        model = dsv4.load(folder, mode=mode, max_resident=1 << 40)
        monkeypatch.setattr(module, "Residency", found)
        return model, made[0]

    monkeypatch.setattr(residency, "PROCESS", 1 << 34)  # whatever ran in this process before
    return make


def logits_of(model, ids):
    """A prefill that chooses every expert, then steps; of two sequences."""
    cache = model.new_cache(len(ids))
    with torch.inference_mode():
        found = [model(ids[:, :100], cache)]
        found += [model(ids[:, at : at + 1], cache) for at in range(100, ids.shape[1])]
    return torch.cat(found, 1)


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("share", [0, 40, 4, 2])  # 0: less than one matrix, so one at a time
def test_a_cap_changes_no_bit(mode, share, folder, capped, make_ids):
    ids = make_ids(2, 130).cpu()
    expected = logits_of(dsv4.load(folder, mode=mode), ids)
    room = EXPERTS // share if share else 1
    model, held = capped(room, mode)
    assert torch.equal(logits_of(model, ids), expected)
    assert 0 < held.held <= held.most_held <= max(room, MATRIX)
    assert share == 0 or held.most_held > room - MATRIX  # and what there is, is used


def test_what_does_not_fit_is_given_back(folder):
    """The pages of the files that are mapped into a process of its own, as the system counts."""
    script = """
import json, sys, torch, dsv4
from pathlib import Path
torch.set_num_threads(2)
model = dsv4.load(sys.argv[1], max_resident=int(sys.argv[2]) or None)
cache = model.new_cache(1)
ids = torch.randint(97, (1, 200), generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    found = [model(ids, cache)[:, -1]] + [model(ids[:, at:at + 1], cache)[:, 0] for at in range(20)]
mapped, inside = 0, False
for line in Path("/proc/self/smaps").read_text().splitlines():
    if "-" in line.split()[0]:
        inside = line.endswith(".safetensors")
    elif inside and line.startswith("Rss:"):
        mapped += int(line.split()[1]) << 10
print(json.dumps([mapped, torch.cat(found).double().sum().item()]))
"""
    if not Path("/proc/self/smaps").exists():
        pytest.skip("the system does not say what is resident")

    def run(cap):
        command = [sys.executable, "-c", script, str(folder), str(cap)]
        source = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": source}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    least = always(folder)
    whole, expected = run(0)
    some, found = run(least + 10 * MIB)
    assert whole > EXPERTS and found == expected
    beside = 4 * MIB  # mapped around dense weights, and the embedding
    weights = least - PROCESS - pass_bytes(dsv4.Config.load(folder)) + 10 * MIB
    assert some < weights + beside < whole / 2


def test_unreachable_caps_are_refused(folder, make_model, tmp_path, monkeypatch):
    least = always(folder)
    assert PROCESS < least < PROCESS + 50 * MIB, least
    dsv4.load(folder, max_resident=least)
    with pytest.raises(ValueError, match=f"give it at least {least // MIB}MiB"):
        dsv4.load(folder, max_resident=least - MIB)
    with pytest.raises(ValueError, match=r"max_resident = 1 is for packed weights, .* dequantised"):
        dsv4.load(folder, torch.float32, max_resident=1)
    plain = make_model().cpu()
    saved = dsv4.save(plain.state_dict(), plain.config, tmp_path / "plain")
    with pytest.raises(ValueError, match="holds no FP8 or FP4 weights"):
        dsv4.load(saved, max_resident=1 << 40)
    monkeypatch.setattr(native, "module", lambda: None)
    with pytest.raises(ValueError, match=r"kept by the native operators, .* without max_resident"):
        dsv4.load(folder, max_resident=1 << 40)


def test_what_else_the_process_holds_leaves_less_for_experts(folder, capped, make_ids):
    ids = make_ids(1, 110).cpu()
    model, held = capped(room=10 * MIB, fixed=0)  # far below what this process holds
    assert torch.equal(logits_of(model, ids), logits_of(dsv4.load(folder), ids))
    assert 0 < held.most_held <= MATRIX


def test_only_pages_of_mapped_files_are_given_back(folder, capped, make_ids):
    ids = make_ids(1, 110).cpu()
    model, held = capped(room=1, mapped=[])  # as if all weights were copies, which would be lost
    assert torch.equal(logits_of(model, ids), logits_of(dsv4.load(folder), ids))
    assert held.most_held == 0
