import formats
import pytest
import torch

from dsv4.quant.hadamard import can_rotate, rotate


@pytest.mark.parametrize("dim", [1, 2, 16, 64, 128])
def test_rotation_is_the_sylvester_matrix(dim):
    x = torch.randn(3, 5, dim, generator=torch.Generator().manual_seed(dim))
    want = x.double() @ formats.hadamard(dim)
    assert (rotate(x).double() - want).abs().max() <= 1e-6 * want.abs().max()
    assert (rotate(rotate(x)) - x).abs().max() <= 1e-6 * x.abs().max()  # it is its own inverse


def test_unit_vectors_give_its_rows_exactly():
    """Each sum has one term, so the only rounding is that of 1/√dim."""
    assert torch.equal(rotate(torch.eye(64)).double(), formats.hadamard(64))
    assert torch.equal(rotate(torch.eye(64, dtype=torch.bfloat16)), formats.hadamard(64).bfloat16())


def test_products_are_kept():
    q, k = torch.randn(2, 7, 128, generator=torch.Generator().manual_seed(0))
    assert torch.allclose((rotate(q) * rotate(k)).sum(-1), (q * k).sum(-1), atol=1e-4)


@pytest.mark.parametrize("dim", [0, 3, 48, 96])
def test_other_sizes_are_refused_with_a_remedy(dim):
    assert not can_rotate(dim)
    with pytest.raises(ValueError, match=rf"got {dim} channels: choose an index_head_dim"):
        rotate(torch.zeros(2, dim))
