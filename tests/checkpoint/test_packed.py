"""`load` of every form: what stays packed, what is expanded, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import dsv4
from dsv4.checkpoint.reader import INDEX_FILE, Checkpoint, CheckpointError, MismatchError
from dsv4.model.layers import PackedLinear
from dsv4.model.moe import PackedExperts
from dsv4.quant.activations import round_fp8

from .conftest import FORMS, tiny

LAYER_0 = "model-00002-of-00006.safetensors"
IDS = torch.arange(1, 31).view(1, -1)
STORED = {  # form → dtype of a dense weight, of an expert's, of its scale
    "released": (torch.float8_e4m3fn, torch.int8, torch.float8_e8m0fnu),
    "base": (torch.float8_e4m3fn, torch.float8_e4m3fn, torch.float32),
    "base_f32_scales": (torch.float8_e4m3fn, torch.float8_e4m3fn, torch.float32),
    "experts_bf16": (torch.float8_e4m3fn, torch.bfloat16, None),
}


def change(folder, changes, file=LAYER_0):
    save_file(load_file(folder / file) | changes, folder / file)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_quantised_stays_packed(form, model, tmp_path):
    folder = dsv4.save(model.state_dict(), tiny(form), tmp_path / "out")
    loaded, whole = dsv4.load(folder), dsv4.load(folder, torch.float32)
    assert whole.mode == "float" and not whole.training and not loaded.training
    if form not in STORED:
        assert loaded.mode == "float" and loaded.dtype is torch.float32
        assert torch.equal(loaded(IDS), whole(IDS))
        return
    dense, expert, scale = STORED[form]
    experts = loaded.layers[1].ffn.experts
    assert loaded.mode == "fast" and isinstance(experts, PackedExperts)
    for linear in (m for m in loaded.modules() if isinstance(m, PackedLinear)):
        assert linear.weight.dtype is dense and linear.scale is not None
    for matrix in ("w1", "w2", "w3"):
        values = getattr(whole.layers[1].ffn.experts, matrix)
        for number, weight in enumerate(getattr(experts, matrix)):
            beside = getattr(experts, f"{matrix}_scale")[number]
            assert weight.dtype is expert and (beside.dtype if scale else beside) is scale
            eye = torch.eye(values.shape[2])
            assert torch.equal(experts._multiply(matrix, number, eye), values[number].T)
    assert loaded.embed.weight.dtype is torch.bfloat16
    assert loaded.layers[0].hc_attn_fn.dtype is torch.float32
    for name in ("embed.weight", "norm.weight", "layers.1.attn.compressor.wkv.weight"):
        assert torch.equal(loaded.get_parameter(name).float(), whole.get_parameter(name)), name
    with torch.no_grad():
        for mode, limit in (("fast", 0.2), ("exact", 0.4)):
            logits, expected = dsv4.load(folder, mode=mode)(IDS), whole(IDS)
            assert (logits - expected).norm() < limit * expected.norm()


def test_unquantised_experts_take_bfloat16_in_both_modes(model, tmp_path):
    folder = dsv4.save(model.state_dict(), tiny("experts_bf16"), tmp_path / "out")
    exact = dsv4.load(folder, mode="exact").layers[0].ffn
    x = torch.randn(3, 160).bfloat16()
    weight = exact.experts.w1[0].float()
    assert torch.allclose(exact.experts._multiply("w1", 0, x), x.float() @ weight.T, atol=1e-6)
    dense = exact.shared_experts.w1
    assert torch.allclose(dense(x), round_fp8(x) @ dense.matrix().T, atol=1e-6)


def test_modes_are_for_packed_weights(folder, model, tmp_path):
    with pytest.raises(ValueError, match="mode = 'precise': must be fast or exact"):
        dsv4.load(folder, mode="precise")
    with pytest.raises(ValueError, match=r"is for packed weights, and .* dequantised to torch"):
        dsv4.load(folder, torch.float32, mode="exact")
    plain = dsv4.save(model.state_dict(), tiny("bf16"), tmp_path / "plain")
    with pytest.raises(ValueError, match="holds no FP8 or FP4 weights"):
        dsv4.load(plain, mode="fast")


def test_the_packaged_model_is_packed():
    model = dsv4.load()
    assert model.mode == "fast" and model.layers[0].ffn.experts.w1[0].dtype is torch.int8


def test_odd_forms_are_read(folder):
    """FP8 where the release has BF16, BF16 where it has F32, and a scale in another shard."""
    tensors = load_file(folder / LAYER_0)
    gate = tensors["layers.0.ffn.gate.weight"]
    change(
        folder,
        {
            "layers.0.ffn.gate.weight": gate.to(torch.float8_e4m3fn),
            "layers.0.ffn.gate.scale": torch.full((1, 2), 2.0),
            "layers.0.hc_attn_fn": tensors["layers.0.hc_attn_fn"].bfloat16(),
        },
    )
    last = "model-00006-of-00006.safetensors"
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"]["layers.0.ffn.gate.scale"] = LAYER_0
    index["weight_map"]["layers.0.attn.wkv.scale"] = last
    (folder / INDEX_FILE).write_text(json.dumps(index))
    moved = load_file(folder / LAYER_0)
    scale = moved.pop("layers.0.attn.wkv.scale")
    save_file(moved, folder / LAYER_0)
    change(folder, {"layers.0.attn.wkv.scale": scale}, last)
    packed, whole = dsv4.load(folder), dsv4.load(folder, torch.float32)
    ours, theirs = packed.layers[0], whole.layers[0]
    assert torch.equal(ours.ffn.gate.weight, 2 * gate.to(torch.float8_e4m3fn).float())
    assert ours.hc_attn_fn.dtype is torch.float32
    assert torch.equal(ours.hc_attn_fn, theirs.hc_attn_fn)
    assert torch.equal(ours.attn.wkv.matrix(), theirs.attn.wkv.weight)


def test_what_is_small_is_checked_and_what_does_not_fit_refused(folder):
    change(folder, {"layers.0.attn_norm.weight": torch.full((160,), torch.nan).bfloat16()})
    with pytest.raises(CheckpointError, match=f"{LAYER_0}: .*attn_norm.weight holds NaN"):
        dsv4.load(folder)
    change(folder, {"layers.0.attn_norm.weight": torch.ones(160).bfloat16()})
    change(folder, {"layers.0.ffn.gate.tid2eid": torch.full((96, 2), 4)})
    with pytest.raises(CheckpointError, match="names expert 4"):
        dsv4.load(folder)
    change(folder, {"layers.0.attn.wkv.scale": torch.ones(1, 3)})
    with pytest.raises(MismatchError, match=r"wkv.scale is F32 \[1, 3\]"):
        dsv4.load(folder)


def test_nan_in_a_matrix_shows_in_the_logits(folder):
    spoiled = torch.full((32, 160), 127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert Checkpoint(folder).tensors["layers.0.attn.wkv.weight"].shape == (32, 160)
    change(folder, {"layers.0.attn.wkv.weight": spoiled})
    for mode in ("fast", "exact"):
        assert dsv4.load(folder, mode=mode)(IDS).isnan().any()


def test_a_copied_model_is_the_mapped_one(folder):
    copied, mapped = dsv4.load(folder, copy=True), dsv4.load(folder)
    with torch.inference_mode():
        assert torch.equal(copied(IDS), mapped(IDS))
    with pytest.raises(ValueError, match="leave out max_resident"):
        dsv4.load(folder, copy=True, max_resident=1 << 40)
    with pytest.raises(ValueError, match="copy = True is for packed weights"):
        dsv4.load(folder, torch.float32, copy=True)
