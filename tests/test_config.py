"""config.json in and out, presets, and the rules that reject a bad value."""

import json

import pytest

from dsv4.config import Config, ConfigError, LayerKind


def test_presets_have_the_released_layer_pattern():
    flash, pro = Config.from_preset("flash"), Config.from_preset("pro")
    assert flash.compress_ratios[:5] == (0, 0, 4, 128, 4) and len(flash.compress_ratios) == 44
    assert pro.compress_ratios[:5] == (128, 128, 4, 128, 4) and len(pro.compress_ratios) == 62
    assert flash.layer_kinds[:4] == (
        LayerKind.SLIDING,
        LayerKind.SLIDING,
        LayerKind.CSA,
        LayerKind.HCA,
    )
    assert pro.layer_kinds[0] is LayerKind.HCA


def test_json_round_trip_keeps_unknown_fields(tmp_path):
    config = Config.from_preset("nano")
    values = config.to_dict() | {"a_later_field": {"x": [1, None]}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    read = Config.load(tmp_path)
    assert read.extra == {"a_later_field": {"x": [1, None]}}
    assert read.to_dict() == values
    assert Config.from_dict(json.loads(read.to_json())) == read


def test_layer_kind_is_apart_from_the_ratio():
    small = Config(num_hidden_layers=3, compress_ratios=[0, 8, 32, 0])
    assert small.layer_kinds == (LayerKind.SLIDING, LayerKind.CSA, LayerKind.HCA)
    named = ["compressed_sparse_attention", "heavily_compressed_attention"]
    same = Config(num_hidden_layers=2, compress_ratios=[8, 8], extra={"layer_types": named})
    assert same.layer_kinds == (LayerKind.CSA, LayerKind.HCA)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 0}, ["hidden_size", "0", "at least 1"]),
        ({"hidden_size": "256"}, ["hidden_size", "'256'", "integer"]),
        ({"o_groups": 7}, ["o_groups", "7", "num_attention_heads"]),
        ({"num_experts_per_tok": 300}, ["num_experts_per_tok", "300", "256"]),
        ({"compress_ratios": [0, 4]}, ["compress_ratios", "43 layers"]),
        ({"compress_ratios": [16] * 43}, ["compress_ratios", "layer_types"]),
        ({"compress_ratios": 5}, ["compress_ratios = 5", "list"]),
        ({"qk_rope_head_dim": 63}, ["qk_rope_head_dim", "63", "even"]),
        ({"scoring_func": "softmax"}, ["scoring_func", "softmax", "sqrtsoftplus"]),
        ({"rope_scaling": {"type": "linear"}}, ["rope_scaling", "yarn"]),
        ({"rms_norm_eps": 0.0}, ["rms_norm_eps", "0.0", "positive"]),
    ],
)
def test_invalid_value_names_field_value_and_rule(changes, words):
    with pytest.raises(ConfigError) as error:
        Config(**changes)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_preset_and_broken_json(tmp_path):
    with pytest.raises(ConfigError, match="flash, pro, nano"):
        Config.from_preset("mega")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        Config.load(tmp_path)


def test_dspark_presets():
    for name, layers in (("flash-0731", 43), ("pro-0813", 61)):
        config = Config.from_preset(name)
        assert len(config.compress_ratios) == layers + 3 and config.num_nextn_predict_layers == 1
        assert config.compress_ratios[-4:] == (4, 0, 0, 0)
        assert config.is_dspark and config.draft_stages == 3
        assert Config.from_dict(json.loads(config.to_json())) == config
    april = Config.from_preset("flash")
    assert not april.is_dspark and april.draft_stages == 1
    assert not any(name.startswith("dspark") for name in april.to_dict())
    alone = Config.from_preset("flash-0731").without_draft()
    assert alone.draft_stages == 0 and not any(k.startswith("dspark") for k in alone.to_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dspark_block_size": 0}, ["compress_ratios", "43 layers", "dspark_block_size"]),
        ({"dspark_block_size": None}, ["compress_ratios", "43 layers", "dspark_block_size"]),
        ({"dspark_block_size": -1}, ["dspark_block_size = -1", "from 1 to sliding_window (128)"]),
        ({"dspark_block_size": 129}, ["dspark_block_size = 129", "sliding_window (128)"]),
        ({"dspark_block_size": 5.0}, ["dspark_block_size = 5.0", "integer"]),
        ({"dspark_block_size": True}, ["dspark_block_size = True", "integer"]),
        ({"dspark_noise_token_id": None}, ["dspark_noise_token_id is missing"]),
        ({"dspark_noise_token_id": 129280}, ["dspark_noise_token_id = 129280", "129,280"]),
        ({"dspark_markov_rank": 0}, ["dspark_markov_rank = 0", "at least 1"]),
        ({"dspark_target_layer_ids": ()}, ["dspark_target_layer_ids", "0 … 42"]),
        ({"dspark_target_layer_ids": 42}, ["dspark_target_layer_ids = 42", "0 … 42"]),
        ({"dspark_target_layer_ids": (42, 43)}, ["dspark_target_layer_ids", "0 … 42"]),
        ({"dspark_target_layer_ids": (41, 40)}, ["dspark_target_layer_ids", "ascending"]),
        ({"dspark_target_layer_ids": ("a",)}, ["dspark_target_layer_ids", "list of integers"]),
        ({"compress_ratios": (0, 0) + (4, 128) * 20 + (4, 0, 4, 0)}, ["a draft has ratio 0"]),
        ({"compress_ratios": (0, 0) + (4, 128) * 20}, ["compress_ratios", "43 layers"]),
        ({"num_hidden_layers": 42}, ["compress_ratios", "a draft has ratio 0"]),
    ],
)
def test_dspark_values_that_break_a_rule(changes, words):
    with pytest.raises(ConfigError) as error:
        Config.from_preset("flash-0731").replace(**changes)
    assert all(word in str(error.value) for word in words), str(error.value)
