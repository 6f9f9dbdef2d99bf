"""The inventory of the released layout against the published totals and against the model."""

import math
from collections import Counter

import pytest
import torch

from dsv4.checkpoint import inventory
from dsv4.checkpoint.layout import Role, layout, shard_count, shard_file, weights
from dsv4.checkpoint.official import STACKED
from dsv4.config import PRESETS, Config, ConfigError
from dsv4.model.transformer import Transformer


def test_flash_has_the_published_totals():
    flash = inventory.of_config(Config.from_preset("flash"))
    assert flash.shards == 46
    assert flash.tensors == 69_187
    assert flash.dtypes == {
        "BF16": 433,
        "F32": 417,
        "F8_E4M3": 375,
        "F8_E8M0": 34_167,
        "I64": 3,
        "I8": 33_792,
    }
    assert flash.bytes == 159_609_485_896 == sum(flash.bytes_by_dtype.values())
    assert flash.parameters == 290_942_289_362
    assert (flash.mtp_parameters, flash.mtp_tensors) == (6_610_048_891, 1_575)
    assert round((flash.parameters - flash.mtp_parameters) / 1e9, 1) == 284.3
    assert round(flash.activated_parameters / 1e9, 1) == 13.8


def test_pro_has_the_published_sizes():
    pro = inventory.of_config(Config.from_preset("pro"))
    assert (pro.tensors, pro.shards) == (145_116, 64)
    assert (pro.mtp_tensors, pro.mtp_bytes) == (2_343, 13_956_587_692)
    assert round(pro.parameters / 1e12, 1) == 1.6
    assert 49e9 <= pro.activated_parameters < 50e9


@pytest.mark.parametrize("preset", PRESETS)
def test_layout_is_the_model(preset):
    """The model, built on the meta device, has the same names and shapes."""
    config = Config.from_preset(preset)
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    experts, want = config.n_routed_experts, {}
    for name, weight in weights(config).items():
        if weight.role is Role.EXPERT:
            prefix, number, matrix = name.removesuffix(".weight").rsplit(".", 2)
            if number == "0":
                want[f"{prefix}.{matrix}"] = (experts, *weight.shape)
        else:
            want[name] = weight.shape
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == want
    assert sum(1 for name in want if STACKED.fullmatch(name)) == 3 * len(config.compress_ratios)


def test_shards():
    config = Config.from_preset("flash")
    shards = {name: tensor.shard for name, tensor in layout(config).items()}
    assert set(shards.values()) == set(range(46)) and shard_count(config) == 46
    assert shards["embed.weight"] == 0 and shards["layers.0.attn_norm.weight"] == 1
    assert shards["mtp.0.e_proj.scale"] == 44
    assert shards["head.weight"] == shards["hc_head_fn"] == shards["norm.weight"] == 45
    assert shard_file(0, 46) == "model-00001-of-00046.safetensors"


def test_base_and_unquantised_forms():
    flash = Config.from_preset("flash")
    name = "layers.5.ffn.experts.17.w2"
    base = layout(flash.replace(expert_dtype="fp8"))
    assert base[f"{name}.weight"].shape == (4096, 2048)
    assert base[f"{name}.weight"].dtype is torch.float8_e4m3fn
    assert base[f"{name}.scale"].shape == (32, 16)
    assert base[f"{name}.scale"].dtype is torch.float32
    assert base["layers.5.attn.wkv.scale"].dtype is torch.float8_e8m0fnu
    plain = layout(flash.replace(quantization_config=None))
    assert Counter(t.dtype for t in plain.values()).keys() == {
        torch.bfloat16,
        torch.float32,
        torch.int64,
    }
    assert plain.keys() == weights(flash).keys()
    bf16 = inventory.of_config(flash.replace(quantization_config=None))
    released = inventory.of_config(flash)
    assert bf16.parameters == released.parameters
    assert bf16.activated_parameters == released.activated_parameters


def test_sides_that_are_no_multiple_of_a_block():
    config = Config.from_preset("nano").replace(hidden_size=160)
    tensors = layout(config)
    assert tensors["layers.0.attn.wo_b.scale"].shape == (2, 2)
    assert tensors["layers.0.ffn.experts.0.w1.scale"].shape == (128, 5)
    assert tensors["layers.0.ffn.experts.0.w1.weight"].nbytes == math.prod((128, 80))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"moe_intermediate_size": 48}, "rows of 48: .* multiples of 32"),
        (
            {"quantization_config": {"weight_block_size": [64, 64]}},
            r"weight_block_size = \[64, 64\]",
        ),
        ({"quantization_config": None, "torch_dtype": "int4"}, "torch_dtype = 'int4'"),
    ],
)
def test_impossible_layouts(changes, words):
    with pytest.raises(ConfigError, match=words):
        layout(Config.from_preset("nano").replace(**changes))
