import pytest
import torch

from dsv4.ops import compress, native, norm, rotary

pytestmark = pytest.mark.skipif(native.module() is None, reason="the native module is not built")


def compare(run, given, plain):
    """The native twin and its slopes against the plain operator in float64."""
    found = run(*given)
    slope = torch.randn_like(found)
    grads = torch.autograd.grad(found, given, slope)
    plain()
    twins = [t.detach().double().requires_grad_() for t in given]
    wanted = run(*twins)
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(grads, torch.autograd.grad(wanted, twins, slope.double()), strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("c", [64, 7, 130])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_native_norm_is_the_plain_one(trained, plain, c, weighted):
    given = [torch.randn(2, 50, 3, c).requires_grad_(), torch.randn(c).requires_grad_()]
    given = given[: 1 + weighted]
    compare(lambda x, w=None: norm.rms_norm(x, w, 1e-6), given, plain)


@pytest.mark.parametrize("axes", [(3, 40, 5), (3, 40)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("back", [False, True])
def test_the_native_rotation_is_the_plain_one(trained, plain, axes, batch, back):
    phase = rotary.phases(torch.randint(99, (batch, 40)), rotary.frequencies(8, 1e4, None))
    phase = phase if len(axes) == 2 else phase.unsqueeze(2)
    phase = phase.conj() if back else phase
    x = torch.randn(*axes, 20).requires_grad_()
    compare(lambda x: rotary.rotate(x, phase), [x], plain)


def test_the_native_pooling_is_the_plain_one(trained, plain):
    values, scores = torch.randn(2, 9, 8, 20), torch.randn(2, 9, 8, 20)
    scores[:, 0, :4] = -torch.inf  # nothing before the first block
    mask = scores.isfinite()
    given = [values.requires_grad_(), scores.nan_to_num(neginf=0.0).requires_grad_()]
    compare(lambda v, s: compress.pool(v, s.masked_fill(~mask, -torch.inf)), given, plain)


def test_one_result_with_any_threads(kernels, monkeypatch):
    module = native.module()
    monkeypatch.setattr(native, "trainer", lambda *tensors: module)
    x, w = torch.randn(500, 64).requires_grad_(), torch.randn(64).requires_grad_()
    found = []
    for threads in (1, 2):
        module.set_threads(threads)
        y = norm.rms_norm(x, w, 1e-6)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, w))))
    module.set_threads(torch.get_num_threads())
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


def test_definitions_have_the_gradients_of_finite_differences():
    """In float64, of which there is no native twin."""
    x = torch.randn(1, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    w = torch.randn(8, dtype=torch.float64, requires_grad=True)
    phase = rotary.phases(torch.arange(3), rotary.frequencies(4, 1e4, None)).view(1, 3, 1, 2)
    phase = phase.to(torch.complex128)
    assert torch.autograd.gradcheck(lambda x, w: norm.rms_norm(x, w, 1e-6), (x, w))
    assert torch.autograd.gradcheck(lambda x: rotary.rotate(x, phase), (x,))
    assert torch.autograd.gradcheck(lambda v, s: compress.pool(v, s), (x, x.detach() * 0.5 + 0.1))
