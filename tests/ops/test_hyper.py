import pytest
import torch

from dsv4.ops import hyper, native

needs_native = pytest.mark.skipif(native.module() is None, reason="the native module is not built")


def sinkhorn_by_sums(comb, iterations, eps):
    comb = comb.double() / (comb.double().sum(0) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(1, keepdim=True) + eps)
        comb = comb / (comb.sum(0, keepdim=True) + eps)
    return comb


def test_sinkhorn_equals_the_sums_and_is_doubly_stochastic():
    comb = torch.rand(4, 4, 9) + 0.01
    found = hyper.sinkhorn(comb, 20, 1e-6)
    assert torch.allclose(found.double(), sinkhorn_by_sums(comb, 20, 1e-6), atol=1e-6)
    assert torch.allclose(found.sum(0), torch.ones(4, 9), atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(4, 9), atol=1e-3)


def test_sinkhorn_gradient_equals_that_of_the_sums():
    comb = (torch.rand(3, 3, 5) + 0.1).requires_grad_()
    weights = torch.randn(3, 3, 5)
    (hyper.sinkhorn(comb, 4, 1e-6) * weights).sum().backward()
    twin = comb.detach().double().requires_grad_()
    (sinkhorn_by_sums(twin, 4, 1e-6) * weights).sum().backward()
    assert torch.allclose(comb.grad.double(), twin.grad, atol=1e-5)


def test_collapse_and_expand_are_their_equations():
    x, y = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 8)
    pre, post, comb = torch.rand(4, 6), torch.rand(4, 6), torch.rand(4, 4, 6)
    u, new = hyper.collapse(x, pre), hyper.expand(x, y, post, comb)
    for token in range(6):
        b, n = divmod(token, 3)
        assert torch.allclose(u[b, n], (pre[:, token, None] * x[b, n]).sum(0), atol=1e-5)
        expected = post[:, token, None] * y[b, n] + comb[:, :, token].T @ x[b, n]
        assert torch.allclose(new[b, n], expected, atol=1e-5)


def parameters(hc, d, out, scales):
    return torch.randn(out, hc * d) * 0.2, torch.randn(scales), torch.randn(out)


def connected(x, y, fn, scale, base, rule):
    """A sub-layer that adds y to what it reads."""
    u, write = hyper.read(x, fn, scale, base, rule)
    return write(u * 0.5 + y)


@pytest.mark.parametrize("shape", [(2, 9, 4, 24), (1, 3, 2, 16), (1, 35, 3, 7)])
def test_mixing_has_the_gradients_of_finite_differences(shape):
    """In float64, of which there is no native twin: the definition itself."""
    hc, d = shape[-2:]
    rule = hyper.Rule(3, 1e-6, 1e-6)
    x, y = torch.randn(1, 2, hc, d), torch.randn(1, 2, d)
    given = [t.double().requires_grad_() for t in (x, y, *parameters(hc, d, (2 + hc) * hc, 3))]
    assert torch.autograd.gradcheck(lambda *t: connected(*t, rule), given, fast_mode=True)


@needs_native
@pytest.mark.parametrize("shape", [(2, 9, 4, 24), (1, 3, 2, 16), (1, 35, 3, 7), (1, 520, 4, 32)])
def test_the_native_twin_is_the_plain_operator_in_float64(trained, plain, shape):
    hc, d = shape[-2:]
    rule = hyper.Rule(20, 1e-6, 1e-6)
    x, y = torch.randn(shape), torch.randn(*shape[:-2], d)
    given = [t.requires_grad_() for t in (x, y, *parameters(hc, d, (2 + hc) * hc, 3))]
    found = connected(*given, rule)
    slope = torch.randn_like(found)
    grads = torch.autograd.grad(found, given, slope)
    plain()
    twins = [t.detach().double().requires_grad_() for t in given]
    wanted = connected(*twins, rule)
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-4)
    theirs = torch.autograd.grad(wanted, twins, slope.double())
    for ours, other in zip(grads, theirs, strict=True):
        assert torch.allclose(ours.double(), other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


@needs_native
def test_the_native_head_is_the_plain_operator(trained, plain):
    x = torch.randn(2, 21, 4, 40)
    given = [t.requires_grad_() for t in (x, *parameters(4, 40, 4, 1))]
    slope = torch.randn(2, 21, 40)

    def run():
        u = hyper.read_head(*given, eps=1e-6, norm_eps=1e-6)
        return u, *torch.autograd.grad(u, given, slope)

    found = run()
    plain()
    for ours, theirs in zip(found, run(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@needs_native
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_its_token_alone(trained, plain, value):
    x, y = torch.randn(1, 20, 4, 16), torch.randn(1, 20, 16)
    x[0, 5, 2, 3] = value
    given = parameters(4, 16, 24, 3)
    found = connected(x, y, *given, hyper.Rule(20, 1e-6, 1e-6))
    plain()
    wanted = connected(x, y, *given, hyper.Rule(20, 1e-6, 1e-6))
    assert found.isnan().equal(wanted.isnan())
    assert found.isfinite().all(-1).all(-1).sum() == 19
