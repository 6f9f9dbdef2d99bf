"""Damaged checkpoints: one clear error each, that names what is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsv4.checkpoint.layout import weights
from dsv4.checkpoint.official import load_into
from dsv4.checkpoint.reader import INDEX_FILE, Checkpoint, CheckpointError, MismatchError
from dsv4.model.transformer import Transformer

from .conftest import tiny

LAYER_0 = "model-00002-of-00006.safetensors"


def change(folder, changes, file=LAYER_0):
    """Rewrite a shard with some tensors replaced, or removed (None)."""
    tensors = load_file(folder / file) | changes
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / file)


def load(folder, config=None):
    load_into(Transformer(config or tiny()), folder)


def reindex(folder, add=(), drop=()):
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"].update(add)
    for name in drop:
        del index["weight_map"][name]
    (folder / INDEX_FILE).write_text(json.dumps(index))


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_shard(folder, keep):
    whole = (folder / LAYER_0).read_bytes()
    (folder / LAYER_0).write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match=f"{LAYER_0} is truncated"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", INDEX_FILE, LAYER_0])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint folder .*absent"):
        Checkpoint(tmp_path / "absent")


def test_broken_config_and_index(folder):
    good = (folder / "config.json").read_text()
    (folder / "config.json").write_text(good[:-40])
    with pytest.raises(CheckpointError, match=r"config\.json.* not JSON"):
        load(folder)
    (folder / "config.json").write_text(good)
    for bad in ("{", "[]", '{"weight_map": 3}', '{"metadata": {}}'):
        (folder / INDEX_FILE).write_text(bad)
        with pytest.raises(CheckpointError, match="is no index"):
            load(folder)
    (folder / INDEX_FILE).write_text('{"weight_map": {"embed.weight": "../x.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"'\.\./x\.safetensors'.* no plain file name"):
        load(folder)


def test_index_that_names_the_wrong_shard(folder):
    reindex(folder, add={"norm.weight": LAYER_0, "ghost.weight": LAYER_0})
    with pytest.raises(CheckpointError, match=f"ghost.weight in {LAYER_0}, norm.weight in"):
        load(folder)


def test_all_differences_are_in_one_error(folder):
    change(
        folder,
        {
            "layers.0.attn.wkv.scale": None,
            "layers.0.attn_norm.weight": torch.zeros(161, dtype=torch.bfloat16),
            "layers.0.ffn.gate.weight": torch.zeros(4, 160, dtype=torch.float16),
            "layers.0.ffn.experts.1.w1.scale": torch.ones(64, 4),
            "layers.0.spare": torch.zeros(3),
            "hidden.spare": torch.zeros(3),
        },
    )
    reindex(folder, add={"layers.0.spare": LAYER_0}, drop=["layers.0.attn.wkv.scale"])
    with pytest.raises(MismatchError) as error:
        load(folder)
    for text in (
        "missing (1): layers.0.attn.wkv.scale",
        f"unexpected (2): layers.0.spare, hidden.spare (in {LAYER_0}, not so in the index)",
        "wrong shape or dtype (3)",
        "layers.0.attn_norm.weight is BF16 [161], must be BF16 [160]",
        "layers.0.ffn.gate.weight is F16 [4, 160], must be BF16, F32, F8_E4M3 or I8 [4, 160]",
        "layers.0.ffn.experts.1.w1.scale is F32 [64, 4], must be F8_E8M0 or F32 [64, 5]",
    ):
        assert text in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("layers.0.ffn.gate.tid2eid", torch.zeros(96, 2, dtype=torch.int32)),
        ("layers.0.attn.attn_sink", torch.zeros(4, dtype=torch.float64)),
        ("layers.0.attn.attn_sink", torch.zeros(4, dtype=torch.int8)),
        ("layers.0.attn.q_norm.weight", torch.zeros(64).to(torch.float8_e4m3fn)),
        ("layers.0.attn.wkv.scale", torch.ones(1, 2, dtype=torch.bfloat16)),
    ],
)
def test_wrong_dtype(folder, name, wrong):
    change(folder, {name: wrong})
    with pytest.raises(MismatchError, match=rf"wrong shape or dtype \(1\): {name} is "):
        load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.0.attn.wkv.scale", torch.nan),
        ("layers.0.ffn.experts.2.w2.scale", torch.nan),
        ("layers.0.attn.wq_a.weight", torch.nan),
        ("layers.0.attn_norm.weight", torch.nan),
        ("layers.0.hc_ffn_base", torch.inf),
    ],
)
def test_nan(folder, name, value):
    tensor = load_file(folder / LAYER_0)[name]
    wide = tensor.float()
    wide.view(-1)[-1] = value
    change(folder, {name: wide.to(tensor.dtype)})
    where = name.replace("scale", "weight") if name.endswith("scale") else name
    with pytest.raises(CheckpointError, match=f"{LAYER_0}: .*{where} holds NaN or infinity"):
        load(folder)


def test_scale_of_zero(folder):
    change(folder, {"layers.0.attn.wkv.scale": torch.zeros(1, 2)})
    with pytest.raises(CheckpointError, match=r"wkv\.weight holds 0: must be positive"):
        load(folder)


def test_expert_id_out_of_range(folder):
    change(folder, {"layers.0.ffn.gate.tid2eid": torch.full((96, 2), 4)})
    with pytest.raises(CheckpointError, match=r"tid2eid names expert 4, .*n_routed_experts 4"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 128}, "embed.weight is BF16 .96, 160., must be BF16 .96, 128."),
        ({"num_hidden_layers": 4, "compress_ratios": (0, 4, 128, 4)}, "missing .*layers.3.attn"),
        ({"num_hidden_layers": 2, "compress_ratios": (0, 4)}, "unexpected .*layers.2.attn"),
        ({"n_routed_experts": 5}, "missing .*ffn.experts.4.w1.weight"),
        ({"num_hash_layers": 0}, "missing .1.: layers.0.ffn.gate.bias"),
    ],
)
def test_config_that_describes_another_model(folder, changes, words):
    config = tiny().replace(**changes)
    (folder / "config.json").write_text(config.to_json())
    expected = {name: spec.shape for name, spec in weights(config).items()}
    with pytest.raises(MismatchError, match=words):
        Checkpoint(folder).check(expected)
    with pytest.raises(MismatchError, match=words):
        load(folder, config)


def test_unknown_tensor_name(folder):
    with pytest.raises(CheckpointError, match=r"holds no tensor layers\.9\.x"):
        Checkpoint(folder).read_tensor("layers.9.x")
