"""Writing in the released layout and reading it back, in every form."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dsv4.checkpoint import inventory, official
from dsv4.checkpoint.layout import DTYPE_NAMES, layout, shard_count, shard_file, weights
from dsv4.checkpoint.official import load_into, save
from dsv4.checkpoint.reader import INDEX_FILE, Checkpoint, CheckpointError, MismatchError
from dsv4.config import Config
from dsv4.model.transformer import Transformer
from dsv4.quant import fp4, fp8

from .conftest import FORMS, random_model, tiny


def headers(folder) -> dict[str, tuple[str, tuple[int, ...], str]]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118
                part = shard.get_slice(name)
                found[name] = (part.get_dtype(), tuple(part.get_shape()), file.name)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_files_are_exactly_the_layout(form, model, tmp_path):
    config = tiny(form)
    folder = save(model.state_dict(), config, tmp_path / "out")
    count = shard_count(config)
    want = {
        name: (DTYPE_NAMES[t.dtype], t.shape, shard_file(t.shard, count))
        for name, t in layout(config).items()
    }
    found = headers(folder)
    assert found == want
    index = json.loads((folder / INDEX_FILE).read_text())
    assert index["weight_map"] == {name: file for name, (_, _, file) in want.items()}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in layout(config).values())
    assert Config.load(folder) == config
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1
    assert inventory.of_checkpoint(Checkpoint(folder)) == inventory.of_config(config)


@pytest.mark.parametrize("form", FORMS)
def test_read_back(form, model, tmp_path):
    """Every weight comes back as its stored form decodes, and rewriting changes no value.

    (It may change bytes: a block whose largest code rounded down to 3 fits half the scale.)
    """
    config = tiny(form)
    state = model.state_dict()
    save(state, config, tmp_path / "one")
    read = Transformer(config)
    found = load_into(read, tmp_path / "one")
    assert not (found.missing or found.unexpected)
    want = dict(official.released(state))
    for name, got in official.released(read.state_dict()):
        kind = DTYPE_NAMES[layout(config)[name].dtype]
        value = want[name]
        if kind == "F8_E4M3":
            value = fp8.dequantize(*fp8.quantize(value))
        elif kind == "I8":
            value = fp4.dequantize(*fp4.quantize(value))
        elif kind == "BF16":
            value = value.bfloat16().float()
        assert torch.equal(got, value), name
    save(read.state_dict(), config, tmp_path / "two")
    again = Transformer(config)
    load_into(again, tmp_path / "two")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, read.state_dict()[name]), name


def test_released_bytes_by_hand(folder, model):
    """The stored bytes of one FP4 and one FP8 weight, against the rule of the format page."""
    shard = load_file(folder / "model-00002-of-00006.safetensors")
    packed, scale = (shard[f"layers.0.ffn.experts.3.w2.{end}"] for end in ("weight", "scale"))
    value = model.state_dict()["layers.0.ffn.experts.w2"][3].double()  # [160, 64]
    signed = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    byte = int(packed.view(torch.uint8)[7, 21])  # columns 42 and 43, in the second block of 32
    step = scale.double()[7, 1]
    assert 3 * step < value[7, 32:].abs().max() <= 6 * step
    for code, column in ((byte & 15, 42), (byte >> 4, 43)):
        nearest = (signed - value[7, column] / step).abs().min()
        assert abs(signed[code] - value[7, column] / step) == nearest
    dense, scale = (shard[f"layers.0.attn.wo_b.{end}"] for end in ("weight", "scale"))
    value = model.state_dict()["layers.0.attn.wo_b.weight"].double()  # [160, 64]
    assert scale.shape == (2, 1)
    restored = dense.double() * scale.double().repeat_interleave(128, 0)[:160]
    assert (restored - value).abs().max() <= value.abs().max() / 16


def test_dtype_asked_for(folder):
    model = Transformer(tiny(), dtype=torch.bfloat16)
    load_into(model, folder)
    checkpoint = Checkpoint(folder)
    name = "layers.1.attn.wq_b.weight"
    assert torch.equal(model.layers[1].attn.wq_b.weight, checkpoint.read_tensor(name).bfloat16())
    assert checkpoint.read_tensor(name, torch.float16).dtype is torch.float16
    assert checkpoint.read_tensor("layers.0.ffn.gate.tid2eid").dtype is torch.int64


def test_stored_form_counts_not_the_config(model, tmp_path):
    """A config that promises FP4 over BF16 shards, and F32 scales instead of E8M0."""
    folder = save(model.state_dict(), tiny("bf16"), tmp_path / "out")
    (folder / "config.json").write_text(tiny().to_json())
    load_into(Transformer(tiny()), folder)
    folder = save(model.state_dict(), tiny(), tmp_path / "f32_scales")
    before = Checkpoint(folder).read_tensor("layers.1.ffn.experts.2.w3.weight")
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        scales = {k: v.float() for k, v in tensors.items() if k.endswith(".scale")}
        save_file(tensors | scales, file)
    read = Transformer(tiny())
    load_into(read, folder)
    assert torch.equal(read.layers[1].ffn.experts.w3[2], before)


def test_single_file_without_index(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (folder / INDEX_FILE).unlink()
    save_file(tensors, folder / "model.safetensors")
    load_into(Transformer(tiny()), folder)
    assert inventory.of_checkpoint(Checkpoint(folder)).shards == 1


def test_not_strict_returns_what_differs(folder):
    config = tiny().replace(num_nextn_predict_layers=0, compress_ratios=(0, 4, 128))
    without = Transformer(config)
    without.register_buffer("later", torch.full((2,), 7.0))
    with pytest.raises(MismatchError):
        load_into(without, folder)
    found = load_into(without, folder, strict=False)
    assert found.missing == ["later"] and without.later.tolist() == [7.0, 7.0]
    assert found.unexpected and all(name.startswith("mtp.0.") for name in found.unexpected)


def test_meta_model_is_refused(folder):
    with torch.device("meta"):
        model = Transformer(tiny())
    with pytest.raises(ValueError, match="to_empty"):
        load_into(model, folder)


# ---- writing ---------------------------------------------------------------------------------


def test_tokenizer_and_generation_config(model, tmp_path):
    source = tmp_path / "tokenizer.json"
    source.write_text('{"x": 1}')
    folder = save(model.state_dict(), tiny(), tmp_path / "out", tokenizer_files=[source])
    assert (folder / "tokenizer.json").read_text() == '{"x": 1}'
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (
        generation.items()
        >= {
            "bos_token_id": 0,
            "eos_token_id": 1,
            "do_sample": True,
            "temperature": 1.0,
            "top_p": 1.0,
        }.items()
    )
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        save(model.state_dict(), tiny(), tmp_path / "b", tokenizer_files=[tmp_path / "absent.json"])


def test_existing_checkpoint_is_not_clobbered(folder, model):
    other = random_model(tiny(), seed=1).state_dict()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        save(other, tiny(), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    save(other, tiny(), folder, overwrite=True)
    assert {file.name for file in folder.iterdir()} == before.keys()
    assert torch.equal(Checkpoint(folder).read_tensor("embed.weight"), _bf16(other["embed.weight"]))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds notes\.txt"):
        save(other, tiny(), folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("at", ["shard", "publish"])
def test_interrupted_write_leaves_the_old_one(folder, model, monkeypatch, stop, at):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:  # the second shard; the second of the two moves
            raise stop
        return real(*args, **kwargs)

    if at == "shard":
        real = official.ShardWriter
        monkeypatch.setattr(official, "ShardWriter", interrupted)
    else:
        real = official.Path.rename
        monkeypatch.setattr(official.Path, "rename", interrupted)
    with pytest.raises(stop):
        save(random_model(tiny(), 1).state_dict(), tiny(), folder, overwrite=True)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_state_that_does_not_fit_is_refused_whole(model, tmp_path):
    state = model.state_dict()
    state["extra.weight"] = state.pop("norm.weight")
    state["layers.0.ffn.experts.w1"] = state["layers.0.ffn.experts.w1"][:, :32]
    with pytest.raises(MismatchError) as error:
        save(state, tiny(), tmp_path / "out")
    found = error.value.differences
    assert found.missing == ["norm.weight"] and found.unexpected == ["extra.weight"]
    assert len(found.unfit) == 4 and "layers.0.ffn.experts.0.w1.weight is [32" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["norm.weight", "layers.0.attn.wkv.weight", "mtp.0.ffn.experts.w2"]
)
def test_not_finite_is_refused_by_name(name, model, tmp_path):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state[name].view(-1)[-1] = torch.nan
    released = name if name.endswith("weight") else "mtp.0.ffn.experts.3.w2.weight"
    with pytest.raises(CheckpointError, match=f"{released} holds NaN"):
        save(state, tiny(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_every_weight_of_the_layout_is_asked_for(model):
    assert weights(tiny()).keys() == dict(official.released(model.state_dict())).keys()


def _bf16(tensor):
    return tensor.bfloat16().float()
