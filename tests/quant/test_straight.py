"""Values of the quantiser, slopes of the identity."""

import pytest
import torch

from dsv4.quant import entries, fp4, fp8, hadamard, straight
from dsv4.quant.activations import round_fp8

CASES = {
    "operand": (straight.fp8_operand, (3, 200), round_fp8),
    "fp8": (straight.fp8_weight, (130, 200), lambda w: fp8.dequantize(*fp8.quantize(w))),
    "fp4": (straight.fp4_weight, (3, 20, 64), lambda w: fp4.dequantize(*fp4.quantize(w))),
    "entry": (
        lambda x: straight.entry(x, 16),
        (5, 96),
        lambda x: entries.unpack_entry(entries.pack_entry(x, 16), 96, 16, torch.float32),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1.0, 1e-3, 3e4])
def test_values_are_rounded_and_slopes_pass(name, size):
    made, shape, expected = CASES[name]
    x = (torch.randn(shape) * size).requires_grad_()
    found = made(x)
    assert torch.equal(found, expected(x.detach()))
    assert not torch.equal(found, x)
    slope = torch.randn(shape)
    found.backward(slope)
    assert torch.equal(x.grad, slope)


def test_a_stack_is_its_matrices():
    stack = torch.randn(3, 130, 200)
    for found, one in zip(straight.fp8_weight(stack), stack, strict=True):
        assert torch.equal(found, straight.fp8_weight(one))


def test_keys_turn_in_the_backward_too():
    x = torch.randn(4, 64, requires_grad=True)
    found = straight.index_key(x)
    turned = hadamard.rotate(x.detach())
    assert torch.equal(found, entries.unpack_key(entries.pack_key(turned), 64))
    slope = torch.randn(4, 64)
    found.backward(slope)
    assert torch.allclose(x.grad, hadamard.rotate(slope), atol=1e-5)  # symmetric and orthonormal


def test_an_expert_of_fp4_is_exact_in_fp8():
    weight = straight.fp4_weight(torch.randn(256, 256) * 0.02)
    assert torch.equal(straight.fp8_weight(weight), weight)
