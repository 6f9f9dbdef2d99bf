"""Checkpoints that transformers 5 saved anew, or whose config.json someone rewrote in its words."""

import json

import pytest
import torch

import dsv4
from dsv4.checkpoint.convert import convert
from dsv4.checkpoint.layout import weights
from dsv4.checkpoint.official import save
from dsv4.checkpoint.reader import Checkpoint, CheckpointError, MismatchError
from dsv4.config import DSPARK_FIELDS, Config, ConfigError

from .conftest import random_model, tiny, tiny_dspark

IDS = torch.arange(1, 61).view(2, 30)
LATER = ("layer_types", "compress_rates", "rope_parameters", "mlp_layer_types", "dtype")


def in_later_words(values: dict) -> dict:
    """A config.json of the release as transformers 5 writes it, the release's words left out."""
    from transformers import DeepseekV4Config

    later = DeepseekV4Config(**values).to_dict()
    later = json.loads(json.dumps({k: v for k, v in later.items() if v is not None}))
    for name in ("rope_theta", "compress_rope_theta", "rope_scaling", "qk_rope_head_dim"):
        later.pop(name, None)
    later.setdefault("dtype", values["torch_dtype"])
    assert all(name in later for name in LATER)
    assert not {"compress_ratios", "num_hash_layers", "torch_dtype"} & later.keys()
    return later


def rewritten(source, out, change):
    """A copy of a checkpoint with another config.json."""
    out.mkdir()
    for file in source.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    values = change(json.loads((source / "config.json").read_text()))
    (out / "config.json").write_text(json.dumps(values))
    return out


def logits(folder, **options):
    with torch.inference_mode():
        return dsv4.load(folder, **options)(IDS)


@pytest.mark.parametrize("form", ["bf16", "f32"])
def test_saved_by_transformers(form, tmp_path):
    """Names, config, drafts: its own save, read by dsv4, gives the logits of the original."""
    from transformers import DeepseekV4ForCausalLM

    config = tiny(form)
    source = save(random_model(config, 5).state_dict(), config, tmp_path / "source")
    dtype = torch.bfloat16 if form == "bf16" else torch.float32
    theirs = DeepseekV4ForCausalLM.from_pretrained(source, dtype=dtype)
    theirs.save_pretrained(tmp_path / "again")
    held = {tensor.name for tensor in Checkpoint(tmp_path / "again").tensors.values()}
    assert "model.hc_head.hc_fn" in held and "model.layers.0.attn.norm.weight" in held
    assert torch.equal(logits(tmp_path / "again"), logits(source))
    model = dsv4.load(tmp_path / "again")
    assert not model.mtp and model.config.num_nextn_predict_layers == 0
    done = convert(tmp_path / "again", tmp_path / "out", allow_rounding=form == "bf16")
    assert Config.load(done.folder).compress_ratios == (0, 4, 128)
    assert torch.equal(logits(done.folder), logits(source))
    values = json.loads((done.folder / "config.json").read_text())
    assert not set(LATER) & values.keys()


def test_a_rewritten_config_keeps_all_of_the_model(folder, tmp_path):
    again = rewritten(folder, tmp_path / "again", in_later_words)
    one, two = Checkpoint(folder), Checkpoint(again)
    assert two.config.replace(extra={}, transformers_version="4.57.1") == one.config.replace(
        compress_ratios=(0, 4, 128)
    )
    assert torch.equal(logits(folder), logits(again)) and len(dsv4.load(again).mtp) == 1
    assert torch.equal(logits(folder, dtype=torch.float32), logits(again, dtype=torch.float32))


def test_drafts_of_a_rewritten_config(tmp_path):
    config = tiny_dspark()
    source = save(random_model(config).state_dict(), config, tmp_path / "source")
    again = rewritten(source, tmp_path / "again", in_later_words)
    assert Checkpoint(again).config.compress_ratios == config.compress_ratios
    assert len(dsv4.load(again).mtp) == 2
    bare = tiny("f32").without_draft()
    plain = save(random_model(bare).state_dict(), bare, tmp_path / "plain")
    fields = {name: getattr(config, name) for name in DSPARK_FIELDS}
    named = {**fields, "dspark_target_layer_ids": [0, 2], "num_nextn_predict_layers": 1}
    lost = rewritten(plain, tmp_path / "lost", lambda v: in_later_words({**v, **named}))
    assert not dsv4.load(lost).mtp and torch.equal(logits(lost), logits(plain))


def test_presets_in_later_words():
    for preset in ("flash", "pro", "nano"):
        config = Config.from_preset(preset)
        read = Config.from_dict(in_later_words(config.to_dict()))
        assert read.layer_kinds == config.layer_kinds and read.rope_scaling == config.rope_scaling
        for name in ("qk_rope_head_dim", "rope_theta", "compress_rope_theta", "num_hash_layers"):
            assert getattr(read, name) == getattr(config, name), name
        assert (read.torch_dtype, read.expert_dtype) == ("bfloat16", "fp4")


def test_other_rates_and_types(tmp_path):
    """Ratios that do not name their kinds: layer_types does, and is kept."""
    later = in_later_words(tiny("f32").to_dict())
    later["layer_types"] = [
        "heavily_compressed_attention",
        "sliding_attention",
        "compressed_sparse_attention",
    ]
    later["compress_rates"] = {
        "compressed_sparse_attention": 8,
        "heavily_compressed_attention": 8,
    }
    config = Config.from_dict(later)
    assert config.compress_ratios == (8, 0, 8)
    assert [kind.value for kind in config.layer_kinds] == later["layer_types"]
    folder = save(random_model(config).state_dict(), config, tmp_path / "out")
    assert Checkpoint(folder).config.layer_kinds == config.layer_kinds
    del later["compress_rates"]  # then the tensors tell, and only they
    with pytest.raises(ConfigError, match="there is no compress_ratios"):
        Config.from_dict(later)
    again = rewritten(folder, tmp_path / "again", lambda values: later)
    assert Checkpoint(again).config.compress_ratios[:3] == (8, 0, 8)
    assert torch.equal(logits(folder), logits(again))


ROPE = {"rope_type": "yarn", "factor": 16, "beta_fast": 32, "beta_slow": 1}
ROPE |= {"original_max_position_embeddings": 65536, "rope_theta": 160000.0}
MAIN = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": ["sliding_attention"] * 5}, "layer_types has 5 entries, num_hidden_lay"),
        ({"layer_types": ["full_attention"] * 6}, r"layer_types\[0\] = 'full_attention': must"),
        ({"layer_types": "sliding_attention"}, "layer_types = 'sliding_attention': must be a li"),
        ({"mlp_layer_types": ["moe"] * 5 + ["dense"]}, r"mlp_layer_types\[5\] = 'dense'"),
        ({"mlp_layer_types": ["moe"] * 5 + ["hash_moe"]}, "hash_moe layers must be the first"),
        ({"mlp_layer_types": ["moe"] * 4}, "mlp_layer_types has 4 entries"),
        ({"compress_rates": {"linear_attention": 4}}, "compress_rates = 'linear_attention'"),
        ({"compress_rates": [4, 128]}, "compress_rates = .* must be an object"),
        ({"compress_rates": {"compressed_sparse_attention": "4"}}, "compress_rates.comp.*integer"),
        ({"partial_rotary_factor": 0.333}, "partial_rotary_factor = 0.333: .*whole number"),
        ({"partial_rotary_factor": [1]}, r"partial_rotary_factor = \[1\]: must be a number"),
        ({"rope_parameters": {"main": MAIN}}, "rope_parameters holds main: it must hold main and"),
        ({"rope_parameters": 5}, "rope_parameters = 5: must be an object"),
        ({"rope_parameters": {"main": MAIN, "compress": {**ROPE, "rope_type": "linear"}}}, "yarn"),
        ({"rope_parameters": {"main": MAIN, "compress": {**ROPE, "mscale": 0.7}}}, "mscale = 0.7"),
        (
            {"rope_parameters": {"main": MAIN, "compress": {**ROPE, "attention_factor": 1.3}}},
            "rope_parameters.compress.attention_factor = 1.3: must be 1",
        ),
        ({"rope_parameters": {"main": ROPE, "compress": ROPE}}, "rope_parameters.main = .*no YaRN"),
        ({"rope_parameters": {"main": MAIN, "compress": {"factor": 16}}}, "compress.rope_type = N"),
        ({"rope_parameters": {"main": MAIN, "compress": "yarn"}}, "rope_parameters.compress ="),
        ({"rope_parameters": {"sliding_attention": MAIN}}, "rope_parameters.rope_type = None"),
        ({"rope_parameters": None}, "there is no .*rope_scaling"),
        ({"rope_theta": 500.0}, r"rope_theta = 500.0: rope_parameters.main.rope_theta says 10000"),
        ({"num_hash_layers": 1}, "num_hash_layers = 1: mlp_layer_types says 3"),
        ({"qk_rope_head_dim": 32}, "qk_rope_head_dim = 32: partial_rotary_factor says 64"),
        ({"torch_dtype": "float32"}, "torch_dtype = 'float32': dtype says 'bfloat16'"),
        ({"dtype": 7}, "dtype = 7: must be a name"),
        ({"model_type": "deepseek_v41"}, "model_type = 'deepseek_v41': V4.1 is another"),
        ({"vision_config": {"depth": 3}}, "vision_config: V4 with vision is not supported"),
        ({"mlp_bias": True}, "mlp_bias = True: V4 has none"),
        ({"n_group": 8}, "n_group = 8: V4 has none of it"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(changes, words):
    later = {**in_later_words(Config.from_preset("nano").to_dict()), **changes}
    with pytest.raises(ConfigError, match=words) as error:
        Config.from_dict(later)
    assert "\n" not in str(error.value)


def test_yarn_in_one_set_of_numbers():
    """rope_parameters that are not nested are those of the compressed layers."""
    later = in_later_words(Config.from_preset("nano").to_dict())
    thetas = {"rope_theta": 10000.0, "compress_rope_theta": 160000.0}
    flat = Config.from_dict({**later, **thetas, "rope_parameters": ROPE})
    assert flat.rope_scaling == Config.from_preset("nano").rope_scaling
    none = Config.from_dict({**later, **thetas, "rope_parameters": {"rope_type": "default"}})
    assert none.rope_scaling is None and '"rope_scaling": null' in none.to_json()
    assert Config.from_dict(json.loads(none.to_json())) == none


def test_null_beside_the_later_words_is_no_value():
    names = "compress_ratios num_hash_layers qk_rope_head_dim rope_theta rope_scaling torch_dtype"
    later = in_later_words(Config.from_preset("nano").to_dict())
    nulls = dict.fromkeys(names.split())
    assert Config.from_dict(later | nulls) == Config.from_dict(later)


# ---- fine-tunes without a draft --------------------------------------------------------------


def test_a_fine_tune_without_its_mtp_block(folder, tmp_path):
    bare = tiny().without_draft()
    state = {k: v for k, v in random_model(tiny()).state_dict().items() if k[:4] != "mtp."}
    plain = save(state, bare, tmp_path / "plain")
    for number, ratios in enumerate(([0, 4, 128], [0, 4, 128, 0])):
        named = {"num_nextn_predict_layers": 0, "compress_ratios": ratios}
        tuned = rewritten(plain, tmp_path / str(number), lambda v, n=named: {**v, **n})
        assert not dsv4.load(tuned).mtp and torch.equal(logits(tuned), logits(plain))
        assert torch.equal(logits(convert(tuned, tmp_path / f"{number}c").folder), logits(plain))
    asked = rewritten(plain, tmp_path / "one", lambda v: {**v, "num_nextn_predict_layers": 1})
    with pytest.raises(MismatchError) as error:
        dsv4.load(asked)
    text = str(error.value)
    assert "asks for an MTP block, of which no tensor is stored: set it to 0" in text
    assert "mtp.0." not in text and len(error.value.differences.missing) == len(
        [name for name in weights(tiny()) if name.startswith("mtp.")]
    )
    without = rewritten(folder, tmp_path / "two", lambda v: {**v, "num_nextn_predict_layers": 0})
    with pytest.raises(MismatchError, match=r"hold an MTP block .* set num_nextn_predict_layers"):
        dsv4.load(without)


# ---- absent fields ---------------------------------------------------------------------------


def test_shapes_tell_what_is_absent(folder, tmp_path):
    told = [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "head_dim",
        "q_lora_rank",
        "o_groups",
        "o_lora_rank",
        "compress_ratios",
        "index_n_heads",
        "index_head_dim",
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "num_hash_layers",
        "hc_mult",
        "num_nextn_predict_layers",
        "quantization_config",
        "expert_dtype",
    ]

    def without(values):
        return {key: value for key, value in values.items() if key not in told}

    bare = rewritten(folder, tmp_path / "bare", without)
    found = Checkpoint(bare).config
    assert found.replace(compress_ratios=(0, 4, 128, 0)) == Checkpoint(folder).config
    assert torch.equal(logits(bare), logits(folder)) and dsv4.load(bare).mode == "fast"


@pytest.mark.parametrize(
    "name",
    [
        "sliding_window",
        "index_topk",
        "routed_scaling_factor",
        "swiglu_limit",
        "hc_sinkhorn_iters",
        "hc_eps",
        "rope_theta",
        "compress_rope_theta",
        "rope_scaling",
        "rms_norm_eps",
        "qk_rope_head_dim",
        "max_position_embeddings",
    ],
)
def test_what_no_tensor_tells_is_an_error(name, folder, tmp_path):
    bare = rewritten(folder, tmp_path / "bare", lambda v: {k: v[k] for k in v if k != name})
    with pytest.raises(CheckpointError, match=rf"config.json: there is no {name}: no tensor tells"):
        Checkpoint(bare)


def test_vision_and_inner_names_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("layers.1.ffn.gate.bias_vl", "model.layers.0.self_attn.q_a_proj.weight"):
        out = rewritten(folder, tmp_path / name, lambda values: values)
        file = out / "model-00002-of-00006.safetensors"
        save_file({**load_file(file), name: torch.zeros(4)}, file)
        index = json.loads((out / "model.safetensors.index.json").read_text())
        index["weight_map"][name] = file.name
        (out / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match=name):
            Checkpoint(out)
