import pytest
import torch

from dsv4.ops.experts import routed_experts


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


def literal(x, indices, weights, w1, w2, w3, limit):
    rows = []
    for t in range(x.shape[0]):
        total = torch.zeros_like(x[t])
        for e, p in zip(indices[t].tolist(), weights[t], strict=True):
            a, b = (w1[e] @ x[t]).clamp(max=limit), (w3[e] @ x[t]).clamp(-limit, limit)
            total = total + w2[e] @ (p * a * torch.sigmoid(a) * b)
        rows.append(total)
    return torch.stack(rows)
