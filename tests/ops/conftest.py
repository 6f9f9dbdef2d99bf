"""Every set of native kernels, with one thread and two."""

import pytest
import torch

from dsv4.ops import native

module = native.module()


@pytest.fixture(params=module.kernel_names() if module else [])
def kernels(request):
    """Each set of kernels in turn."""
    best = module.kernels()
    assert module.choose_kernels(request.param)
    yield request.param
    assert module.choose_kernels(best)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    native.use_threads(module)
    yield request.param
    torch.set_num_threads(before)
    native.use_threads(module)


@pytest.fixture
def trained(kernels, threads, monkeypatch):
    """Training operators on every set of kernels, portable ones included."""
    monkeypatch.setattr(native, "trainer", lambda *tensors: module)


@pytest.fixture
def plain(monkeypatch):
    """Switches the native operators off: call it."""
    return lambda: monkeypatch.setattr(native, "trainer", lambda *tensors: None)
