import pytest
import torch

from dsv4.ops import native, products

pytestmark = pytest.mark.skipif(native.module() is None, reason="the native module is not built")

SHAPES = [(70, 300, 40), (33, 256, 64), (1, 7, 5), (129, 1, 1), (64, 513, 4200)]  # rows, in, out


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_layout_is_the_product(trained, low, shape):
    m, k, n = shape
    a, b = torch.randn(m, k), torch.randn(k, n)
    left, right = (products.rounded(t, low=low).double() for t in (a, b))
    for x in (a, a.T.contiguous().T):
        for w in (b, b.T.contiguous().T):
            found = products.multiply(x, w, low=low)
            assert torch.allclose(found.double(), left @ right, rtol=1e-4, atol=1e-3)
            twice = found.clone()
            products.add_product(twice, x, w, low=low)
            assert torch.allclose(twice, 2 * found, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("low", [False, True])
def test_sums_do_not_depend_on_neighbours_or_threads(kernels, low, monkeypatch):
    module = native.module()
    monkeypatch.setattr(native, "trainer", lambda *tensors: module)
    a, b = torch.randn(150, 600), torch.randn(600, 90)
    whole = []
    for threads in (1, 2):
        module.set_threads(threads)
        whole.append(products.multiply(a, b, low=low))
    module.set_threads(torch.get_num_threads())
    assert whole[0].equal(whole[1])
    assert whole[0][20:31].equal(products.multiply(a[20:31], b, low=low))
    assert whole[0][:, 40:].equal(products.multiply(a, b[:, 40:], low=low))


def test_gradients_are_those_of_float64(trained):
    x, w = torch.randn(3, 20, 24).requires_grad_(), torch.randn(18, 24).requires_grad_()
    slope = torch.randn(3, 20, 18)
    found = torch.autograd.grad(products.linear(x, w), (x, w), slope)
    twins = [t.detach().double().requires_grad_() for t in (x, w)]
    wanted = torch.autograd.grad(twins[0] @ twins[1].T, twins, slope.double())
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_low_products_round_operands_and_slopes_alone(trained, plain):
    x, w = torch.randn(2, 40, 2, 24).requires_grad_(), torch.randn(2, 18, 24).requires_grad_()
    slope = torch.randn(2, 40, 2, 18)

    def run():
        y = products.grouped_linear(x, w, low=True)
        return y, *torch.autograd.grad(y, (x, w), slope)

    found = run()
    plain()
    for ours, theirs in zip(found, run(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    group = (x[:, :, 1].bfloat16().double(), w[1].bfloat16().double())
    assert torch.allclose(found[0][:, :, 1].double(), group[0] @ group[1].T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(trained, low, value):
    a, b = torch.randn(40, 33), torch.randn(33, 50)
    a[7, 32] = value
    found = products.multiply(a, b, low=low)
    assert not found[7].isfinite().any()
    assert torch.cat((found[:7], found[8:])).isfinite().all()
