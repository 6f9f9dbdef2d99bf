"""Sizes as a user writes them."""

import pytest

from dsv4.cli.sizes import parse_size
from dsv4.ops import native

from .test_checkpoint import fails, run


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("5GB", 5 * 10**9), ("1.5 mib", 3 << 19), ("1000", 1000), ("2TB", 2 * 10**12), ("7kB", 7000)],
)
def test_sizes(text, nbytes):
    assert parse_size(text, "--size") == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-5GB", "0", "0GB", "5XB", "5 G B", "nan"])
def test_bad_sizes(text):
    with pytest.raises(ValueError, match=r"--size .*: must be a size such as"):
        parse_size(text, "--size")


def test_a_capped_model_says_the_same_or_why_not():
    words = ("generate", "--prompt", "The sun", "--max-tokens", 8, "--temperature", 0)
    assert "--max-resident 5 apples: must be a size such as" in fails(
        *words, "--max-resident", "5 apples"
    )
    if native.module() is None:
        assert "kept by the native operators" in fails(*words, "--max-resident", "1GiB")
        return
    assert "give it at least 2" in fails(*words, "--max-resident", "100MB")
    assert run(*words, "--max-resident", "400MiB") == run(*words)
