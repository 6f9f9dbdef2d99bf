import torch

from dsv4.ops import hyper


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
