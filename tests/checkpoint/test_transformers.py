"""transformers' DeepseekV4ForCausalLM reads the files that dsv4 writes, and computes the same."""

import pytest
import torch

from dsv4.checkpoint.official import save

from .conftest import random_model, tiny


@pytest.mark.parametrize("form", ["f32", "bf16"])
def test_loads_in_transformers_and_agrees(form, tmp_path):
    from transformers import DeepseekV4ForCausalLM

    config = tiny(form).replace(index_n_heads=16)  # with fewer heads scores tie at zero
    ours = random_model(config, seed=5).eval()
    if form == "bf16":
        with torch.no_grad():
            for tensor in ours.parameters():
                tensor.copy_(tensor.bfloat16())
    folder = save(ours.state_dict(), config, tmp_path / "out")
    theirs, info = DeepseekV4ForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["error_msgs"]
    assert all("mtp." in key for key in info["unexpected_keys"])
    ids = torch.randint(0, config.vocab_size, (2, 150), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want, got = theirs(ids).logits, ours(ids)
    assert (got - want).abs().max() <= 1e-4 * want.std()


def test_the_packaged_config_draws_no_warning(monkeypatch):
    from transformers import DeepseekV4Config, modeling_rope_utils

    from dsv4.checkpoint.load import packaged

    said = []
    for name in ("warning", "warning_once"):
        monkeypatch.setattr(modeling_rope_utils.logger, name, said.append)
    config = DeepseekV4Config.from_pretrained(packaged())
    assert config.max_position_embeddings == 1_048_576 and not said
    DeepseekV4Config.from_dict({**config.to_dict(), "max_position_embeddings": 16_384})
    assert any("factor" in words for words in said)  # this is how it would have been said
