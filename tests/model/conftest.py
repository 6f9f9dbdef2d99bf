"""Quantised checkpoints of tiny random models."""

import pytest

import dsv4
from dsv4.config import QUANTIZATION

QUANTISED = {
    "quantization_config": QUANTIZATION,
    "expert_dtype": "fp4",
    "torch_dtype": "bfloat16",
    "compress_ratios": [0, 4, 16, 4, 16, 0],
}


@pytest.fixture(scope="session")
def make_checkpoint(make_model, tmp_path_factory):
    """A folder with a random model in the released form, or a changed one."""

    def make(seed=1, spread=0.1, **changes):
        model = make_model(seed, spread, **(QUANTISED | changes)).cpu()
        path = tmp_path_factory.mktemp("packed") / "model"
        return dsv4.save(model.state_dict(), model.config, path)

    return make
