"""config.json in and out, presets, and the rules that reject a bad value."""

import json

import pytest

from dsv4.checkpoint.load import packaged
from dsv4.config import DSPARK_FIELDS, PRESETS, YARN, Config, ConfigError, LayerKind


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
    with pytest.raises(ConfigError, match="not JSON"):
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


HOSTILE = [
    ({"hidden_size": 2**63}, "hidden_size = 9223372036854775808: must be at most 262,144"),
    ({"vocab_size": -(2**63)}, "vocab_size = -9223372036854775808: must be at least 1"),
    ({"sliding_window": 10**9}, "sliding_window = 1000000000: must be at most 65,536"),
    ({"hc_mult": 10**9}, "hc_mult = 1000000000: must be at most 64"),
    ({"n_routed_experts": 10**9}, "n_routed_experts = 1000000000: must be at most 65,536"),
    ({"n_routed_experts": 60000}, "n_routed_experts = 60000: times num_hidden_layers"),
    ({"hc_sinkhorn_iters": 10**12}, "hc_sinkhorn_iters = 1000000000000: must be at most 1,000"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000: must be at most 1,024"),
    ({"index_topk": 10**5000}, "index_topk = a int: must be at most"),
    ({"max_position_embeddings": 2**63}, "max_position_embeddings = 9223372036854775808: must be"),
    ({"compress_rope_theta": 1}, "compress_rope_theta = 1: must be above 1"),
    ({"rope_theta": 10**400}, r"rope_theta = 10+…: must be at most 1e\+12"),
    ({"rope_theta": float("inf")}, "rope_theta = inf: must be finite"),
    ({"hc_eps": float("nan")}, "hc_eps = nan: must be finite"),
    ({"later": {"x": [0.5, float("nan")]}}, r"later\.x\.1 = nan: must be finite"),
    ({"quantization_config": "fp8"}, "quantization_config = 'fp8': must be an object or null"),
    ({"quantization_config": []}, r"quantization_config = \[\]: must be an object"),
    ({"quantization_config": {"quant_method": "awq"}}, "config.quant_method = 'awq': must be fp8"),
    ({"quantization_config": {"weight_block_size": [32, 32]}}, r"_block_size = \[32, 32\]: must"),
    ({"quantization_config": {"weight_block_size": 128}}, "weight_block_size = 128: must be"),
    ({"quantization_config": {"modules_to_not_convert": 3}}, "_not_convert = 3: must be a list"),
    ({"head_dim": [[128]]}, r"head_dim = \[\[128\]\]: must be an integer"),
    ({"head_dim": None}, "head_dim = None: must be an integer"),
    ({"head_dim": True}, "head_dim = True: must be an integer"),
    ({"head_dim": 128.0}, r"head_dim = 128\.0: must be an integer"),
    ({"head_dim": "1" * 10**6}, "head_dim = '1+…: must be an integer"),
    ({"swiglu_limit": "10"}, "swiglu_limit = '10': must be a number"),
    ({"routed_scaling_factor": False}, "routed_scaling_factor = False: must be a number"),
    ({"compress_ratios": [[0], 4]}, r"compress_ratios\[0\] = \[0\]: every ratio must be"),
    ({"compress_ratios": [0] * 10**6}, "compress_ratios has 1,000,000 entries"),
    ({"compress_ratios": [0, 0, 2**63]}, r"compress_ratios\[2\] = 92.*: every ratio"),
    ({"compress_ratios": {"0": 4}}, "compress_ratios = .*: must be a list"),
    ({"architectures": [["x"]]}, r"architectures = \[\['x'\]\]: must be a list of texts"),
    ({"torch_dtype": 16}, "torch_dtype = 16: must be a text"),
    ({"use_cache": "yes"}, "use_cache = 'yes': must be true or false"),
    ({"topk_method": "greedy"}, "topk_method = 'greedy': must be noaux_tc"),
    ({"norm_topk_prob": 1}, "norm_topk_prob = 1: must be true"),
    ({"n_shared_experts": 2}, "n_shared_experts = 2: V4 has one shared expert"),
    ({"expert_dtype": "int8"}, "expert_dtype = 'int8': must be fp4, fp8 or bf16"),
    ({"expert_dtype": ["fp4"]}, r"expert_dtype = \['fp4'\]: must be fp4"),
    ({"eos_token_id": 8192}, "eos_token_id = 8192: must be below vocab_size"),
    ({"rope_scaling": [1]}, r"rope_scaling = \[1\]: must be null or of type yarn"),
    ({"rope_scaling": {"type": "yarn", "factor": [16]}}, r"rope_scaling.factor = \[16\]: must be"),
    ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, r"scaling.factor = 0\.5: must be at least"),
    ({"rope_scaling": {**YARN, "mscale": 1.0}}, r"mscale = 1\.0: V4's YaRN has no such number"),
    ({"rope_scaling": {**YARN, "beta_slow": 1e300}}, "beta_slow = 1e.300: must be at most"),
    ({"model_type": "llama"}, "model_type = 'llama': must be deepseek_v4"),
    ({"model_type": None}, "model_type = None: must be deepseek_v4"),
    ({"image_token_id": 5}, "image_token_id: V4 with vision is not supported"),
    ({"dspark_block_size": 10**9}, "dspark_noise_token_id is missing"),
    ({"layer_types": [[1]] * 6}, r"layer_types\[0\] = \[1\]: must be one of sliding_attention"),
    ({"effort_revision": {}}, "effort_revision = {}: must be 2026-04 or 2026-07"),
]


@pytest.mark.parametrize(("changes", "words"), HOSTILE)
def test_values_outside_any_use(changes, words):
    """One line that names field and rule; nothing is built, so it takes milliseconds."""
    with pytest.raises(ConfigError, match=words) as error:
        Config.from_dict(Config.from_preset("nano").to_dict() | changes)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


ODD = [None, True, 0, -1, 2, 1.5, 1e308, 2**63, 10**400, "", "yarn", [], [0], [[]], ["a"], {}]
ODD += [{"a": 1}, {"type": "yarn"}, {"rope_type": "yarn"}, {"main": {}, "compress": {}}, [4] * 6]
ODD += [{"compressed_sparse_attention": 2**63}, {"weight_block_size": [[128], 128]}]
ODD += [{"main": 1, "compress": 2}, ["sliding_attention"] * 6, ["hash_moe"] * 6]
LATER = ["layer_types", "mlp_layer_types", "rope_parameters", "dtype", "compress_rates"]
LATER += ["compress_rate_hca", "partial_rotary_factor", "mlp_bias", "n_group"]


@pytest.mark.parametrize("preset", ["nano", "flash-0731"])
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(preset):
    values = Config.from_preset(preset).to_dict()
    for field in (*values, *DSPARK_FIELDS, *LATER):
        for value in ODD:
            try:
                read = Config.from_dict(values | {field: value})
                assert Config.from_dict(json.loads(read.to_json())) == read
            except ConfigError as error:
                assert "\n" not in str(error) and len(str(error)) < 400, error


def test_an_object_that_is_too_deep(tmp_path):
    deep: list = []
    for _ in range(50):
        deep = [deep]
    values = Config.from_preset("nano").to_dict() | {"later": deep}
    with pytest.raises(ConfigError, match="later is nested deeper than 20 levels"):
        Config.from_dict(values)
    for text in ("[" * 10**5, '{"a":' * 10**5, "NaN", "[]", '"x"', ""):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json"):
            Config.load(tmp_path)


def test_no_value_of_a_preset_is_assumed():
    values = Config.from_preset("nano").to_dict()
    for name in ("num_hidden_layers", "sliding_window", "rope_scaling", "max_position_embeddings"):
        with pytest.raises(ConfigError, match=f"there is no {name}: no tensor tells"):
            Config.from_dict({key: value for key, value in values.items() if key != name})
    with pytest.raises(ConfigError, match="there is no vocab_size, hidden_size, num_hidden_lay"):
        Config.from_dict({"model_type": "deepseek_v4"})
    assert Config.from_dict(values | {"rope_scaling": None}).rope_scaling is None


def test_what_a_config_says_can_be_changed_without_changing_it():
    config = Config.from_preset("nano")
    config.to_dict()["rope_scaling"]["factor"] = 3
    assert config == Config.from_preset("nano")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_contradict_themselves_nowhere(preset):
    """The context is what YaRN states; transformers warns where it is not."""
    config = Config.from_preset(preset)
    scaling = config.rope_scaling
    context = scaling["factor"] * scaling["original_max_position_embeddings"]
    assert config.max_position_embeddings == context


def test_the_packaged_model_states_one_context_everywhere():
    config = Config.load(packaged())
    scaling = config.rope_scaling
    assert config.max_position_embeddings == 1_048_576
    assert scaling["factor"] * scaling["original_max_position_embeddings"] == 1_048_576
    tokenizer = json.loads((packaged() / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["model_max_length"] == 1_048_576
    generation = json.loads((packaged() / "generation_config.json").read_text(encoding="utf-8"))
    assert generation.get("max_length", 1_048_576) == 1_048_576  # none of its own that is smaller
    assert config.bos_token_id == generation["bos_token_id"]
    assert config.eos_token_id == generation["eos_token_id"]
