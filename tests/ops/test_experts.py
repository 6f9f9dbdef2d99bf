import pytest
import torch

from dsv4.ops import native
from dsv4.ops.experts import routed_experts

needs_native = pytest.mark.skipif(native.module() is None, reason="the native module is not built")


@pytest.mark.parametrize("tokens", [1, 2, 40])  # few rows, and sorted by expert
@pytest.mark.parametrize("limit", [10.0, 0.3])
def test_routed_experts_are_their_equation(tokens, limit):
    experts, d, i, k = 8, 16, 12, 3
    x, w2 = torch.randn(tokens, d), torch.randn(experts, d, i)
    w1, w3 = torch.randn(experts, i, d), torch.randn(experts, i, d)
    indices = torch.stack([torch.randperm(experts)[:k] for _ in range(tokens)])
    indices[:, 0] = indices[0, 0]  # one expert has many tokens, others none
    weights = torch.rand(tokens, k)
    inputs = [t.requires_grad_() for t in (x, weights, w1, w2, w3)]
    found = routed_experts(x, indices, weights, w1, w2, w3, limit)
    twins = [t.detach().double().requires_grad_() for t in inputs]
    expected = literal(twins[0], indices, *twins[1:], limit)
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-4)
    slope = torch.randn(tokens, d)
    grads = torch.autograd.grad(found, inputs, slope)
    for ours, theirs in zip(grads, torch.autograd.grad(expected, twins, slope), strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-3, atol=1e-3)


def case(tokens=37, experts=5, d=24, i=20, k=2):
    """Experts of which one has no token, and one has most."""
    indices = torch.stack([torch.randperm(experts - 1)[:k] for _ in range(tokens)])
    indices[: tokens - 3, 0], indices[: tokens - 3, 1] = 0, 1
    shapes = (tokens, d), (tokens, k), (experts, i, d), (experts, d, i), (experts, i, d)
    x, weights, w1, w2, w3 = (torch.randn(shape).requires_grad_() for shape in shapes)
    return x, indices, weights, w1, w2, w3


def slopes(given, limit, low, slope):
    y = routed_experts(*given, limit, low=low)
    return y, *torch.autograd.grad(y, [t for t in given if t.requires_grad], slope)


@needs_native
@pytest.mark.parametrize("limit", [10.0, 0.5])
@pytest.mark.parametrize("low", [False, True])
def test_the_native_twin_is_the_plain_operator(trained, plain, limit, low):
    given = case()
    slope = torch.randn(given[0].shape)
    found = slopes(given, limit, low, slope)
    plain()
    for ours, theirs in zip(found, slopes(given, limit, low, slope), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=2e-3 if low else 1e-4)
    assert (found[3][-1] == 0).all() and (found[3][0] != 0).any()  # no token, no slope


@needs_native
def test_the_native_twin_has_one_result(trained):
    given, slope = case(), torch.randn(37, 24)
    for one, other in zip(
        slopes(given, 1.0, True, slope), slopes(given, 1.0, True, slope), strict=True
    ):
        assert one.equal(other)


@needs_native
def test_the_native_twin_refuses_an_expert_that_is_not_there(trained):
    x, indices, *rest = case()
    indices[3, 1] = 5
    with pytest.raises(ValueError, match="expert 5 of 5"):
        routed_experts(x, indices, *rest, 10.0)


def literal(x, indices, weights, w1, w2, w3, limit):
    rows = []
    for t in range(x.shape[0]):
        total = torch.zeros_like(x[t])
        for e, p in zip(indices[t].tolist(), weights[t], strict=True):
            a, b = (w1[e] @ x[t]).clamp(max=limit), (w3[e] @ x[t]).clamp(-limit, limit)
            total = total + w2[e] @ (p * a * torch.sigmoid(a) * b)
        rows.append(total)
    return torch.stack(rows)
