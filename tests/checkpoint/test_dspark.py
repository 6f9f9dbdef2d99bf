"""Checkpoints with a DSpark draft: published totals, strict reading, round trips in every form."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import dsv4
from dsv4.checkpoint import inventory
from dsv4.checkpoint.convert import convert
from dsv4.checkpoint.draft import fit_draft
from dsv4.checkpoint.layout import layout, shard_count, weights
from dsv4.checkpoint.official import load_into, save
from dsv4.checkpoint.reader import Checkpoint, CheckpointError, MismatchError
from dsv4.config import DSPARK_FIELDS, Config
from dsv4.model.dspark import Stage
from dsv4.model.mtp import MTPBlock
from dsv4.model.transformer import Transformer

from .conftest import FORMS, random_model, tiny, tiny_dspark

PUBLISHED = {  # tensors by dtype, the draft's, and totals of the releases
    "flash-0731": {
        "whole": {"BF16": 445, "F32": 433, "F8_E4M3": 390, "F8_E8M0": 35_718, "I64": 3}
        | {"I8": 35_328},
        "draft": {"BF16": 20, "F32": 27, "F8_E4M3": 25, "F8_E8M0": 2_329, "I8": 2_304},
        "tensors": 72_317,
        "shards": 48,
        "bytes": 166_878_536_440,
        "stages": (1_568, 1_565, 1_572),
        "stage_bytes": (3_610_287_448, 3_559_944_536, 3_692_606_316),
        "draft_bytes": 10_862_838_300,
    },
    "pro-0813": {
        "whole": {"BF16": 631, "F32": 606, "F8_E4M3": 543, "F8_E8M0": 74_271, "I64": 3}
        | {"I8": 73_728},
        "draft": {"BF16": 20, "F32": 27, "F8_E4M3": 25, "F8_E8M0": 3_481, "I8": 3_456},
        "tensors": 149_782,
        "shards": 66,
        "bytes": 892_727_580_904,
        "stages": (2_336, 2_333, 2_340),
        "stage_bytes": (14_007_483_608, 13_853_319_192, 14_118_573_100),
        "draft_bytes": 41_979_375_900,
    },
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A tiny checkpoint with a draft of two stages, in the released form."""
    config = tiny_dspark()
    state = random_model(config).state_dict()
    return save(state, config, tmp_path_factory.mktemp("dspark") / "released")


def edited(source, out, change):
    """A copy of a checkpoint, its config.json changed."""
    out.mkdir()
    for file in source.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    values = json.loads((out / "config.json").read_text())
    change(values)
    (out / "config.json").write_text(json.dumps(values))
    return out


# ---- totals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_totals(preset):
    config, want = Config.from_preset(preset), PUBLISHED[preset]
    found = inventory.of_config(config)
    assert (found.tensors, found.shards, found.bytes) == (
        want["tensors"],
        want["shards"],
        want["bytes"],
    )
    assert found.dtypes == want["whole"]
    assert (found.mtp_tensors, found.mtp_bytes) == (sum(want["stages"]), want["draft_bytes"])
    names = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int8: "I8"}
    names |= {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e8m0fnu: "F8_E8M0"}
    kinds: dict[str, int] = {}
    for stage, (count, nbytes) in enumerate(zip(want["stages"], want["stage_bytes"], strict=True)):
        held = {n: t for n, t in layout(config).items() if n.startswith(f"mtp.{stage}.")}
        assert (len(held), sum(t.nbytes for t in held.values())) == (count, nbytes)
        assert {t.shard for t in held.values()} == {want["shards"] - 3 + stage}
        for tensor in held.values():
            kinds[names[tensor.dtype]] = kinds.get(names[tensor.dtype], 0) + 1
    assert kinds == want["draft"]


def test_the_main_model_and_the_published_parameters_of_the_draft():
    april, dspark = (inventory.of_config(Config.from_preset(p)) for p in ("flash", "flash-0731"))
    router_biases = 3 * 256
    assert dspark.mtp_parameters - router_biases == 19_845_850_215
    assert dspark.parameters - dspark.mtp_parameters == april.parameters - april.mtp_parameters
    assert dspark.activated_parameters == april.activated_parameters
    assert dspark.bytes - dspark.mtp_bytes == april.bytes - april.mtp_bytes


def test_tensors_of_a_stage_stand_where_the_release_has_them():
    shapes = {
        name: tensor.shape for name, tensor in layout(Config.from_preset("flash-0731")).items()
    }
    assert shapes["mtp.0.main_proj.weight"] == (4096, 12288)
    assert shapes["mtp.0.main_proj.scale"] == (32, 96)
    assert shapes["mtp.2.markov_head.markov_w1.weight"] == (129280, 256)
    assert shapes["mtp.2.markov_head.markov_w2.weight"] == (129280, 256)
    assert shapes["mtp.2.confidence_head.proj.weight"] == (1, 4096 + 256)
    assert not any(
        re.search(r"mtp\..*(compressor|indexer|tid2eid|e_proj|h_proj|enorm|hnorm)", name)
        for name in shapes
    )
    for part in ("main_proj", "main_norm"):
        assert {name.split(".")[1] for name in shapes if part in name} == {"0"}
    for part in (".hc_head_fn", "markov_head", "confidence_head"):
        assert {name.split(".")[1] for name in shapes if part in name} == {"2"}


# ---- round trips -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_save_load_save(form, tmp_path):
    config = tiny_dspark(form)
    save(random_model(config).state_dict(), config, tmp_path / "one")
    checkpoint = Checkpoint(tmp_path / "one")
    assert checkpoint.config == config.replace(effort_revision="2026-07")
    assert len(checkpoint.shards) == shard_count(config) == 7
    assert inventory.of_checkpoint(checkpoint) == inventory.of_config(config)
    read = Transformer(config)
    load_into(read, checkpoint)
    save(read.state_dict(), config, tmp_path / "two")
    again = Checkpoint(tmp_path / "two")
    for name in weights(config):
        assert torch.equal(checkpoint.read_tensor(name), again.read_tensor(name)), name
    if form in ("bf16", "f32"):  # blocks have two forms of the same values, floats one
        for file in (tmp_path / "one").iterdir():
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("experts", ["fp4", "fp8", "bf16"])
@pytest.mark.parametrize("dense", ["fp8", "bf16"])
def test_converts_to_every_form(experts, dense, released, tmp_path):
    source = Checkpoint(released)
    done = Checkpoint(convert(released, tmp_path / "out", experts=experts, dense=dense).folder)
    assert done.config.draft_stages == 2 and done.config.is_dspark
    for name in weights(source.config):
        assert torch.equal(source.read_tensor(name), done.read_tensor(name)), name
    back = convert(done.path, tmp_path / "back", experts="fp4", dense="fp8", allow_rounding=True)
    assert Checkpoint(back.folder).config == source.config


def test_convert_without_options_copies_every_byte(released, tmp_path):
    done = convert(released, tmp_path / "out")
    for file in released.iterdir():
        assert (done.folder / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_loads_packed(released, mode):
    model = dsv4.load(released, mode=mode)
    assert all(isinstance(stage, Stage) for stage in model.mtp) and len(model.mtp) == 2
    assert model.mtp[0].main_proj.weight.dtype is torch.float8_e4m3fn
    stored = Checkpoint(released).view("mtp.1.markov_head.markov_w1.weight")
    assert torch.equal(model.mtp[1].markov_head.markov_w1.weight, stored)


# ---- the tensors decide ----------------------------------------------------------------------


def test_fields_without_tensors_are_no_draft(released, tmp_path):
    """As transformers leaves a checkpoint that it saves anew: with or without the ratios' tail."""
    config = tiny("f32").replace(num_nextn_predict_layers=0, compress_ratios=(0, 4, 128))
    plain = save(random_model(config).state_dict(), config, tmp_path / "plain")
    fields = {name: getattr(tiny_dspark(), name) for name in DSPARK_FIELDS}
    for number, ratios in enumerate(([0, 4, 128], [0, 4, 128, 0, 0])):
        for layers in (0, 1):
            named = {"compress_ratios": ratios, "num_nextn_predict_layers": layers}
            folder = edited(
                plain, tmp_path / f"{number}{layers}", lambda v, n=named: v.update(fields, **n)
            )
            model = dsv4.load(folder)
            assert not model.mtp and model.config == config.replace(effort_revision="2026-04")
            ids = torch.arange(8).unsqueeze(0)
            assert torch.equal(model(ids), dsv4.load(plain)(ids))


def test_an_mtp_block_under_fields_of_dspark_is_an_mtp_block(folder, tmp_path):
    fields = {name: getattr(tiny_dspark(), name) for name in DSPARK_FIELDS}
    ratios = {"compress_ratios": [0, 4, 128, 0, 0]}
    mixed = edited(folder, tmp_path / "mixed", lambda values: values.update(fields | ratios))
    model = dsv4.load(mixed)
    assert isinstance(model.mtp[0], MTPBlock) and not model.config.is_dspark


def test_both_kinds_side_by_side(folder, released):
    april, dspark = dsv4.load(folder), dsv4.load(released)
    assert isinstance(april.mtp[0], MTPBlock) and isinstance(dspark.mtp[0], Stage)


def test_a_draft_that_the_config_does_not_describe(released, tmp_path):
    def forget(values):
        for name in DSPARK_FIELDS:
            del values[name]
        values["compress_ratios"] = [0, 4, 128, 0]

    with pytest.raises(CheckpointError, match=r"DSpark draft of 2 stages.*dspark_markov_rank"):
        Checkpoint(edited(released, tmp_path / "a", forget))


@pytest.mark.parametrize("tail", [0, 1, 3])
def test_a_wrong_number_of_stages_is_said(tail, released, tmp_path):
    change = {"compress_ratios": [0, 4, 128] + [0] * tail}
    folder = edited(released, tmp_path / "x", lambda values: values.update(change))
    words = rf"compress_ratios has {tail} entries after .* 3 layers, .* 2 DSpark stages"
    with pytest.raises(CheckpointError, match=words):
        dsv4.load(folder)


def test_stages_are_counted_by_the_ratios_alone(released, tmp_path):
    folder = edited(released, tmp_path / "x", lambda v: v.update(num_nextn_predict_layers=0))
    assert len(dsv4.load(folder).mtp) == 2


@pytest.mark.parametrize("kind", ["missing", "unexpected", "shape"])
def test_strict_reading_names_tensors_of_the_draft(kind, released, tmp_path):
    folder = edited(released, tmp_path / "x", lambda values: None)
    file = folder / "model-00007-of-00007.safetensors"
    tensors = load_file(file)
    name = "mtp.1.markov_head.markov_w2.weight"
    if kind == "missing":
        del tensors[name]
    elif kind == "unexpected":
        tensors["mtp.1.head.weight"] = tensors[name].clone()
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, file)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    places["weight_map"] = {n: f for n, f in places["weight_map"].items() if f != file.name}
    places["weight_map"] |= dict.fromkeys(tensors, file.name)
    index.write_text(json.dumps(places))
    with pytest.raises(MismatchError) as error:
        dsv4.load(folder)
    found = error.value.differences
    want = {"missing": [name], "unexpected": ["mtp.1.head.weight"], "shape": []}[kind]
    assert (found.missing if kind == "missing" else found.unexpected) == want
    assert bool(found.unfit) is (kind == "shape")


def test_a_config_without_a_draft_is_left_alone():
    assert fit_draft(tiny(), ["embed.weight", "mtp.0.e_proj.weight"]) == tiny()
    assert fit_draft(tiny(), ["embed.weight"]) == tiny()  # its MTP block is asked for, and missed
