"""Quantised checkpoints of tiny random models."""

import pytest

import dsv4
from dsv4.config import QUANTIZATION
from dsv4.ops import native

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


@pytest.fixture
def load_plain(monkeypatch):
    """`dsv4.load` as without the native module."""

    def load(folder, **options):
        native.module.cache_clear()
        with monkeypatch.context() as switched:
            switched.setenv(native.SWITCH, "0")
            found = dsv4.load(folder, **options)
        native.module.cache_clear()
        return found

    return load
