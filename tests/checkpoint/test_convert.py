"""Converting: forms, round trips, rounding by consent, shards, files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsv4.checkpoint import convert as module
from dsv4.checkpoint.convert import convert, workspace_of
from dsv4.checkpoint.layout import (
    DTYPE_NAMES,
    Role,
    dense_modules,
    layout,
    scale_name,
    shard_count,
    shard_file,
    weights,
)
from dsv4.checkpoint.official import save
from dsv4.checkpoint.reader import Checkpoint, CheckpointError
from dsv4.checkpoint.recode import RoundingError
from dsv4.config import QUANTIZATION, Config, ConfigError
from dsv4.quant import fp4, fp8

from .conftest import FORMS, random_model, tiny, tiny_dspark


def files(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def assert_same_values(one, two):
    first, second = Checkpoint(one), Checkpoint(two)
    for name in weights(first.config):
        assert torch.equal(first.read_tensor(name), second.read_tensor(name)), name


def written(form, model, tmp_path):
    return save(model.state_dict(), tiny(form), tmp_path / form)


# ---- forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_without_options_nothing_changes(form, model, tmp_path):
    source = written(form, model, tmp_path)
    done = convert(source, tmp_path / "out")
    assert files(done.folder) == files(source) and not done.rounded
    assert not workspace_of(done.folder).exists()


@pytest.mark.parametrize("experts", ["fp4", "fp8", "bf16"])
@pytest.mark.parametrize("dense", ["fp8", "bf16"])
def test_every_form_of_the_release(experts, dense, folder, tmp_path):
    done = convert(folder, tmp_path / "out", experts=experts, dense=dense)
    checkpoint, config = Checkpoint(done.folder), Config.load(done.folder)
    stored = {name: (t.dtype, t.shape, t.file) for name, t in checkpoint.tensors.items()}
    count = shard_count(config)
    assert stored == {
        name: (DTYPE_NAMES[t.dtype], t.shape, shard_file(t.shard, count))
        for name, t in layout(config).items()
    }
    by_role = {Role.EXPERT: set(), Role.DENSE: set()}
    for name, spec in weights(config).items():
        by_role.get(spec.role, set()).add(stored[name][0])
    kinds = {"fp4": {"I8"}, "fp8": {"F8_E4M3"}, "bf16": {"BF16"}}
    assert by_role == {Role.EXPERT: kinds[experts], Role.DENSE: kinds[dense]}
    assert not done.rounded
    assert_same_values(folder, done.folder)
    if (experts, dense) == ("bf16", "bf16"):
        values = json.loads((done.folder / "config.json").read_text())
        assert "quantization_config" not in values and "expert_dtype" not in values
    else:
        quantization = dict(config.quantization_config)
        named = quantization.pop("modules_to_not_convert", None)
        assert named == (list(dense_modules(config)) if dense == "bf16" else None)
        assert quantization == QUANTIZATION and config.expert_dtype == experts


def test_scales_of_experts(folder, tmp_path):
    """FP8 experts have F32 scales as in the Base releases, FP4 experts E8M0."""
    name = "layers.1.ffn.experts.2.w2.scale"
    convert(folder, tmp_path / "fp8", experts="fp8")
    assert Checkpoint(tmp_path / "fp8").tensors[name].dtype == "F32"
    convert(tmp_path / "fp8", tmp_path / "fp4", experts="fp4")
    assert Checkpoint(tmp_path / "fp4").tensors[name].dtype == "F8_E8M0"


@pytest.mark.parametrize("config", [tiny(), tiny_dspark(), tiny().without_draft()])
def test_dense_linears_are_those_that_the_config_names(config):
    names = [name for name, spec in weights(config).items() if spec.role is Role.DENSE]
    modules = dense_modules(config)
    found = {m for m in modules for name in names if name.endswith(f".{m}.weight")}
    assert found == set(modules)
    assert all(name.removesuffix(".weight").endswith(modules) for name in names)


def test_some_dense_linears_named_and_others_not():
    partly = {**QUANTIZATION, "modules_to_not_convert": ["e_proj", "lm_head"]}
    with pytest.raises(ConfigError, match=r"all dense linears or none: it lacks attn\.wq_a"):
        layout(tiny().replace(quantization_config=partly))


def test_scale_format_is_kept_as_stored(model, tmp_path):
    source = written("base_f32_scales", model, tmp_path)
    done = convert(source, tmp_path / "out", experts="bf16")
    assert "scale_fmt" not in done.config.quantization_config
    assert Checkpoint(done.folder).tensors["layers.0.attn.wkv.scale"].dtype == "F32"
    assert_same_values(source, done.folder)


def test_stored_forms_count_not_the_config(model, tmp_path):
    """A config that promises FP4 over FP8 experts: kept is what is stored."""
    source = written("base", model, tmp_path)
    (source / "config.json").write_text(tiny().to_json())
    done = convert(source, tmp_path / "out")
    assert done.config.expert_dtype == "fp8"
    assert_same_values(source, done.folder)


def test_forms_that_are_mixed_or_cannot_be_kept(model, folder, tmp_path):
    shard = folder / "model-00002-of-00006.safetensors"
    tensors, name = load_file(shard), "layers.0.ffn.experts.1.w1.weight"
    tensors[name] = Checkpoint(folder).read_tensor(name, torch.bfloat16)
    del tensors[scale_name(name)]
    save_file(tensors, shard)
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    del values["weight_map"][scale_name(name)]
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="1 as bf16, 47 as fp4: name --experts"):
        convert(folder, tmp_path / "out")
    done = convert(folder, tmp_path / "out", experts="fp4")
    assert_same_values(folder, done.folder)
    source = written("f32", model, tmp_path)
    with pytest.raises(CheckpointError, match=r"dense weights are stored as f32.*name --dense"):
        convert(source, tmp_path / "f32_out", experts="fp4")


# ---- round trips -----------------------------------------------------------------------------

TRIPS = {  # form, there, back
    "fp4 by bf16": ("released", {"experts": "bf16"}, {"experts": "fp4"}),
    "fp4 by fp8": ("released", {"experts": "fp8"}, {"experts": "fp4"}),
    "all by bf16": (
        "released",
        {"experts": "bf16", "dense": "bf16"},
        {"experts": "fp4", "dense": "fp8"},
    ),
    "dense by bf16": ("released", {"dense": "bf16"}, {"dense": "fp8"}),
    "base by bf16": (
        "base",
        {"experts": "bf16", "dense": "bf16"},
        {"experts": "fp8", "dense": "fp8"},
    ),
    "base experts by bf16": ("base_f32_scales", {"experts": "bf16"}, {"experts": "fp8"}),
}


@pytest.mark.parametrize("trip", TRIPS)
def test_round_trip(trip, model, tmp_path):
    """The same values and config. The same bytes too, except in blocks with a twin: an FP8 block
    whose largest code is 224, an FP4 group that ends at 6 without 0.5 and 1.5.
    """
    form, there, back = TRIPS[trip]
    source = written(form, model, tmp_path)
    convert(source, tmp_path / "there", **there)
    done = convert(tmp_path / "there", tmp_path / "back", **back)
    assert not done.rounded and done.config == tiny(form)
    assert_same_values(source, done.folder)
    before, after = Checkpoint(source), Checkpoint(done.folder)
    other = 0
    for name in before.tensors:
        one, two = before.view(name), after.view(name)
        if not torch.equal(one.view(torch.uint8), two.view(torch.uint8)):
            assert has_twin(before, name.replace(".scale", ".weight")), name
            other += 1
    assert other < 0.05 * len(before.tensors)


def has_twin(checkpoint, name) -> bool:
    stored = checkpoint.view(name)
    if stored.dtype is torch.int8:
        codes = fp4.unpack(stored).unflatten(1, (-1, 32)) % 8
        return bool(((codes.amax(2) == 7) & ~((codes == 1) | (codes == 3)).any(2)).any())
    assert stored.dtype is torch.float8_e4m3fn
    return any(
        part.float().abs().max() <= 224 for rows in stored.split(128) for part in rows.split(128, 1)
    )


# ---- rounding --------------------------------------------------------------------------------

FAR = "layers.1.ffn.experts.3.w1"  # [64, 160]: two blocks of 128×128, the second of 32 columns


def widen(folder):
    """Make one group's scale 2^-30 of its neighbours': its block cannot be folded exactly."""
    shard = folder / "model-00003-of-00006.safetensors"
    tensors = load_file(shard)
    scale = tensors[f"{FAR}.scale"]
    scale.view(torch.uint8)[5, 4] -= 30
    tensors[f"{FAR}.weight"].view(torch.uint8)[5, 64:] = 0x77
    save_file(tensors, shard, metadata={"format": "pt"})


def test_blocks_that_do_not_fit_are_named(folder, tmp_path):
    widen(folder)
    words = rf"{FAR}\.weight cannot be held exactly: 1 of its 2 FP8 blocks .*\(0, 1\); .*--allow-r"
    with pytest.raises(RoundingError, match=words) as error:
        convert(folder, tmp_path / "out", experts="fp8")
    assert (error.value.name, error.value.blocks) == (f"{FAR}.weight", [(0, 1)])
    assert not (tmp_path / "out").exists()
    finished = list((workspace_of(tmp_path / "out") / "new").glob("*.safetensors"))
    done = convert(folder, tmp_path / "out", experts="fp8", allow_rounding=True)
    assert done.rounded == {"FP8 blocks of 128×128": 1} and done.resumed == len(finished) == 2
    one, two = (Checkpoint(path) for path in (folder, done.folder))
    for name in weights(one.config):
        want, got = one.read_tensor(name), two.read_tensor(name)
        if name == f"{FAR}.weight":  # the other block is exact, this one as quantize rounds it
            assert torch.equal(want[:, :128], got[:, :128])
            want = fp8.dequantize(*fp8.quantize(want))
        assert torch.equal(want, got), name


def test_consent_that_was_withdrawn_names_the_block_again(folder, tmp_path, monkeypatch):
    widen(folder)
    interrupt(monkeypatch, after=4)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "out", experts="fp8", allow_rounding=True)
    monkeypatch.undo()
    with pytest.raises(RoundingError, match=FAR):
        convert(folder, tmp_path / "out", experts="fp8")
    done = convert(folder, tmp_path / "out", experts="fp8", allow_rounding=True)
    assert done.rounded == {"FP8 blocks of 128×128": 1}


@pytest.mark.parametrize("form", ["f32", "bf16"])
def test_rounding_is_that_of_save(form, model, tmp_path):
    """What `save` writes from the same values, byte for byte."""
    source = written(form, model, tmp_path)
    with pytest.raises(RoundingError, match=r"--allow-rounding"):
        convert(source, tmp_path / "out", experts="fp4", dense="fp8")
    done = convert(source, tmp_path / "out", experts="fp4", dense="fp8", allow_rounding=True)
    values = {name: Checkpoint(source).read_tensor(name) for name in weights(tiny())}
    state = dict(model.state_dict())
    for name in state:
        if ".ffn.experts." in name:
            prefix, matrix = name.rsplit(".", 1)
            parts = [values[f"{prefix}.{e}.{matrix}.weight"] for e in range(4)]
            state[name] = torch.stack(parts)
        else:
            state[name] = values[name]
    want = save(state, tiny(), tmp_path / "want")
    assert files(done.folder) == files(want)
    assert done.rounded["FP4 groups of 32"] > 0 and done.rounded["FP8 blocks of 128×128"] > 0
    assert ("rows" in done.rounded) == (form == "f32")


def test_fp8_to_fp4_rounds(model, tmp_path):
    source = written("base", model, tmp_path)
    with pytest.raises(RoundingError, match="FP4 groups of 32 would be rounded"):
        convert(source, tmp_path / "out", experts="fp4")
    convert(source, tmp_path / "out", experts="fp4", allow_rounding=True)
    name = f"{FAR}.weight"
    value = Checkpoint(source).read_tensor(name)
    want = fp4.dequantize(*fp4.quantize(value))
    assert torch.equal(Checkpoint(tmp_path / "out").read_tensor(name), want)


@pytest.mark.parametrize("factor", [1.0, 0.75])
def test_fp4_with_float_scales(factor, folder, tmp_path):
    """Powers of two become E8M0; others are no FP4 that could be folded or kept."""
    shard = folder / "model-00003-of-00006.safetensors"
    tensors = load_file(shard)
    tensors[f"{FAR}.scale"] = tensors[f"{FAR}.scale"].float() * factor
    save_file(tensors, shard, metadata={"format": "pt"})
    if factor == 1.0:
        for experts in (None, "fp8"):
            done = convert(folder, tmp_path / f"to {experts}", experts=experts)
            assert_same_values(folder, done.folder)
        assert Checkpoint(tmp_path / "to None").tensors[f"{FAR}.scale"].dtype == "F8_E8M0"
    else:
        with pytest.raises(RoundingError, match=FAR):
            convert(folder, tmp_path / "kept")
        done = convert(folder, tmp_path / "fp8", experts="fp8")  # 0.75 is a mantissa that E4M3 has
        assert_same_values(folder, done.folder)


def test_not_finite_is_refused_by_name(folder, tmp_path):
    shard = folder / "model-00003-of-00006.safetensors"
    tensors = load_file(shard)
    tensors[f"{FAR}.scale"].view(torch.uint8)[3, 3] = 255
    save_file(tensors, shard)
    for experts in ("fp8", "bf16"):
        with pytest.raises(CheckpointError, match=rf"{FAR}\.weight holds NaN"):
            convert(folder, tmp_path / experts, experts=experts)


# ---- shards and files ------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [1, 40_000, 10**9])
def test_shards_of_a_size(nbytes, folder, tmp_path):
    done = convert(folder, tmp_path / "out", shard_size=nbytes)
    assert_same_values(folder, done.folder)
    shards = sorted(done.folder.glob("*.safetensors"))
    assert len(shards) == done.shards and (nbytes < 10**9 or done.shards == 1)
    for file in shards:
        tensors = load_file(file)
        assert sum(t.nbytes for t in tensors.values()) <= nbytes or len(tensors) <= 2
    again = convert(done.folder, tmp_path / "again")
    assert files(again.folder) == files(folder)


def test_small_files(folder, tmp_path):
    (folder / "tokenizer.json").write_text('{"x": 1}')
    (folder / "generation_config.json").write_text('{"top_p": 0.5}')
    (folder / "README.md").write_text("mine")
    save_file({"a": torch.zeros(1)}, folder / "spare.safetensors")
    done = convert(folder, tmp_path / "out", experts="bf16")
    assert (done.folder / "tokenizer.json").read_text() == '{"x": 1}'
    assert (done.folder / "generation_config.json").read_text() == '{"top_p": 0.5}'
    assert done.left_out == ["README.md", "spare.safetensors"]
    assert not (done.folder / "README.md").exists()
    (folder / "generation_config.json").unlink()
    done = convert(folder, tmp_path / "out", overwrite=True)
    assert json.loads((done.folder / "generation_config.json").read_text())["top_p"] == 1.0


def test_target_and_options(folder, tmp_path, monkeypatch):
    before = files(folder)
    with pytest.raises(CheckpointError, match="is the source itself"):
        convert(folder, folder, experts="bf16", overwrite=True)
    other = save(random_model(tiny(), 1).state_dict(), tiny(), tmp_path / "other")
    held = files(other)
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        convert(folder, other)
    for options, words in {
        ("fp2", None, None): "experts = 'fp2': must be fp4, fp8, bf16",
        (None, "fp4", None): "dense = 'fp4': must be fp8, bf16",
        (None, None, 0): "shard size is 0: must be at least one byte",
    }.items():
        names = dict(zip(("experts", "dense", "shard_size"), options, strict=True))
        with pytest.raises(CheckpointError, match=words):
            convert(folder, tmp_path / "out", **names)
    with pytest.raises(CheckpointError, match=r"no checkpoint folder .*absent"):
        convert(tmp_path / "absent", tmp_path / "out")
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r"needs \d\.\d MB more, 1\.0 kB are free: make room"):
        convert(folder, tmp_path / "out")
    monkeypatch.undo()
    assert files(folder) == before and files(other) == held
    convert(folder, other, overwrite=True)
    assert files(other) == before


def interrupt(monkeypatch, *, after, error=KeyboardInterrupt, module=module):
    """Let `after` shards be written, then fail in the middle of the next."""
    real, seen = module.ShardWriter, set()

    class Failing(real):
        def write(self, name, tensor):
            super().write(name, tensor)
            seen.add(self.file)
            if len(seen) > after:
                raise error

    monkeypatch.setattr(module, "ShardWriter", Failing)
