"""The tensors' dtypes say how a checkpoint is stored, whatever its config.json promises."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import dsv4
from dsv4.checkpoint.convert import convert
from dsv4.checkpoint.official import save
from dsv4.checkpoint.reader import Checkpoint, CheckpointError, MismatchError
from dsv4.config import Config

from .conftest import tiny

IDS = torch.arange(1, 41).view(1, -1)
LAYER_1 = "model-00003-of-00006.safetensors"
EXPERT = "layers.1.ffn.experts.3.w1"


def rewrite(folder, change):
    """Apply `change` to every shard's tensors."""
    for file in folder.glob("*.safetensors"):
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def say(folder, **fields):
    """Change config.json; ... takes a field away."""
    file = folder / "config.json"
    values = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
    return folder


def exponents(tensors):
    """The scales of FP8 experts, powers of two, as E8M0."""
    return {
        name: t.to(torch.float8_e8m0fnu) if ".ffn.experts." in name and t.dim() and
        name.endswith(".scale") else t
        for name, t in tensors.items()
    }  # fmt: skip


def logits(folder, **options):
    with torch.inference_mode():
        return dsv4.load(folder, **options)(IDS)


def copy_of(folder, out):
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    return out


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    """FP8 experts with F32 scales, as the Base releases."""
    return save(model.state_dict(), tiny("base"), tmp_path_factory.mktemp("base") / "base")


@pytest.mark.parametrize("said", ["fp8", "fp4", "bf16", ...])
def test_fp8_experts_with_exponents_as_scales(said, base, tmp_path):
    folder = say(rewrite(copy_of(base, tmp_path / "e8m0"), exponents), expert_dtype=said)
    checkpoint = Checkpoint(folder)
    assert checkpoint.tensors[f"{EXPERT}.scale"].dtype == "F8_E8M0"
    assert checkpoint.config.expert_dtype == "fp8"
    for options in ({}, {"mode": "exact"}, {"dtype": torch.float32}):
        assert torch.equal(logits(folder, **options), logits(base, **options)), options
    done = convert(folder, tmp_path / "out")
    for file in folder.glob("*.safetensors"):
        assert file.read_bytes() == (done.folder / file.name).read_bytes(), file.name
    quantization = Config.load(done.folder).quantization_config
    assert quantization["expert_scale_fmt"] == "ue8m0" == quantization["scale_fmt"]
    again = convert(done.folder, tmp_path / "again")
    assert again.config == done.config == Checkpoint(done.folder).config
    whole = dsv4.load(folder, torch.float32)
    saved = save(whole.state_dict(), whole.config, tmp_path / "saved")
    assert Checkpoint(saved).tensors[f"{EXPERT}.scale"].dtype == "F8_E8M0"
    assert torch.equal(logits(saved, dtype=torch.float32), logits(folder, dtype=torch.float32))
    there = convert(folder, tmp_path / "bf16", experts="bf16", dense="bf16")
    assert torch.equal(logits(there.folder), logits(base, dtype=torch.float32))


@pytest.mark.parametrize("form", ["released", "base", "base_f32_scales"])
def test_without_quantization_config_it_stays_packed(form, model, tmp_path):
    folder = save(model.state_dict(), tiny(form), tmp_path / "out")
    want, config = logits(folder), Checkpoint(folder).config
    say(folder, quantization_config=..., expert_dtype=...)
    assert dsv4.load(folder).mode == "fast" and torch.equal(logits(folder), want)
    assert Checkpoint(folder).config == config
    assert Config.load(convert(folder, tmp_path / "again").folder) == tiny(form)


def test_a_promise_of_fp4_over_floats(model, tmp_path):
    folder = save(model.state_dict(), tiny("bf16"), tmp_path / "out")
    want = logits(folder)
    (folder / "config.json").write_text(tiny().to_json())
    assert torch.equal(logits(folder), want) and dsv4.load(folder).mode == "float"
    assert Checkpoint(folder).config == tiny("bf16")


@pytest.mark.parametrize("scale", ["fp4", "fp8", "f32", "inf", "zero"])
@pytest.mark.parametrize("options", [{}, {"experts": "bf16", "dense": "bf16"}])
def test_a_scale_that_is_none_is_refused_by_name(scale, options, folder, base, tmp_path):
    source = copy_of(base, tmp_path / "base") if scale in ("f32", "inf") else folder
    name = "layers.1.attn.wq_b" if scale in ("fp8", "zero") else EXPERT
    tensors = load_file(source / LAYER_1)
    stored = tensors[f"{name}.scale"]
    if scale in ("fp4", "fp8"):
        stored.view(torch.uint8)[-1, -1] = 255
    else:
        value = {"f32": torch.nan, "inf": torch.inf, "zero": 0.0}[scale]
        stored = tensors[f"{name}.scale"] = stored.float()
        stored[-1, -1] = value
    save_file(tensors, source / LAYER_1)
    words = "holds 0: must be positive" if scale == "zero" else "holds NaN or infinity"
    with pytest.raises(CheckpointError, match=rf"the scale of {name}\.weight {words}"):
        convert(source, tmp_path / "out", **options)


@pytest.mark.parametrize("name", ["layers.1.attn.wq_b.weight", "layers.1.ffn.gate.weight"])
def test_nan_is_not_copied(name, folder, tmp_path):
    tensors = load_file(folder / LAYER_1)
    raw = tensors[name].view(torch.uint8)
    raw[-1, -1] = 0x7F  # E4M3's NaN; the upper byte of a BF16
    if tensors[name].dtype is torch.bfloat16:
        raw[-1, -2] = 0xC0
    save_file(tensors, folder / LAYER_1)
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinity"):
        convert(folder, tmp_path / "out")


def test_fp4_rows_that_are_no_whole_blocks(tmp_path):
    config = tiny("bf16").replace(moe_intermediate_size=48)
    model = dsv4.Transformer(config)
    model.initialize(0)
    folder = save(model.state_dict(), config, tmp_path / "out")

    def packed(tensors):
        name = f"{EXPERT.replace('w1', 'w2')}"
        if f"{name}.weight" in tensors:
            tensors[f"{name}.weight"] = torch.zeros(160, 24, dtype=torch.int8)
        return tensors

    rewrite(folder, packed)
    words = r"layers\.1\.ffn\.experts\.3\.w2\.weight is I8 \[160, 24\]: its rows of 48 are no whole"
    with pytest.raises(MismatchError, match=words):
        dsv4.load(folder)
