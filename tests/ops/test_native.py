"""The native operators against float64 and their plain twins, on every instruction set there is."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dsv4.model.handed import UnsupportedError, matrix
from dsv4.ops import hyper, indexer, native
from dsv4.quant import entries, fp4, fp8

module = native.module()
pytestmark = pytest.mark.skipif(module is None, reason="the native module is not built")


def stored(form, weight):
    """A weight in one of the four forms, as stored and as the numbers that it stands for."""
    if form == "fp8":
        codes, scale = fp8.quantize(weight)
        return (codes, scale), fp8.dequantize(codes, scale)
    if form == "fp4":
        codes, scale = fp4.quantize(weight)
        return (codes, scale), fp4.dequantize(codes, scale)
    kept = weight.bfloat16() if form == "bf16" else weight
    return (kept,), kept.float()


FORMS = [("f32", False), ("bf16", False), ("bf16", True), ("fp8", True), ("fp4", True)]


@pytest.mark.parametrize(("form", "low"), FORMS)
@pytest.mark.parametrize("shape", [(128, 256), (300, 512), (37, 1024), (130, 96), (5, 32)])
def test_products_are_right_and_rows_do_not_depend_on_each_other(
    kernels, threads, form, low, shape
):
    packed, values = stored(form, torch.randn(shape) * torch.rand(shape[0], 1))
    w, x, y = matrix(module, *packed), torch.randn(9, shape[1]), torch.empty(9, shape[0])
    w.multiply(x, y, low)
    operand = x.bfloat16().double() if low else x.double()
    expected = operand @ values.double().T
    assert (y - expected).abs().max() < 1e-5 * expected.abs().max()
    for count in (1, 2, 5):
        some = torch.empty(count, shape[0])
        w.multiply(x[3 : 3 + count].contiguous(), some, low)
        assert torch.equal(some, y[3 : 3 + count])


@pytest.mark.parametrize(("heads", "c"), [(1, 16), (4, 64), (6, 80), (16, 64), (24, 128)])
@pytest.mark.parametrize("count", [1, 32, 77])
def test_attention_is_the_formula(kernels, heads, c, count):
    q, keys, sink = torch.randn(heads, c), torch.randn(count, c), torch.randn(heads)
    out = torch.empty(heads, c)
    module.attend_keys(q, keys, sink, False, out)
    scores = torch.cat((q.double() @ keys.double().T / c**0.5, sink.double().unsqueeze(1)), 1)
    expected = torch.softmax(scores, 1)[:, :-1] @ keys.double()
    assert (out - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("heads", "ic", "count", "k"),
    [
        (4, 64, 777, 64),
        (64, 128, 1000, 512),
        (3, 32, 90, 10),
        (16, 64, 300, 299),
        (4, 64, 20_011, 64),
        (2, 32, 5000, 600),
    ],
)
def test_the_indexer_chooses_as_the_plain_one(kernels, heads, ic, count, k):
    q = entries.unpack_key(entries.pack_key(torch.randn(heads, ic)), ic)
    weights, keys = torch.randn(heads) * 0.1, entries.pack_key(torch.randn(count, ic))
    keys[count // 2 :] = keys[: count - count // 2].clone()  # ties, far apart
    ranks, chosen = torch.empty(count, dtype=torch.uint16), torch.empty(k, dtype=torch.int32)
    module.choose(q, weights, keys, k, ranks, chosen)
    exact = entries.unpack_key(keys, ic).double()
    scores = indexer.index_scores(q[None, None].double(), weights[None, None].double(), exact[None])
    expected = indexer.top_entries(scores[0, 0].bfloat16().float(), k)
    assert torch.equal(chosen.long(), expected.sort().values)


@pytest.mark.parametrize("count", [33, 4096, 9001])
def test_of_equal_keys_the_latest_are_chosen(kernels, count):
    q = entries.unpack_key(entries.pack_key(torch.randn(4, 64)), 64)
    key = entries.pack_key(torch.randn(1, 64))
    ranks, chosen = torch.empty(count, dtype=torch.uint16), torch.empty(20, dtype=torch.int32)
    module.choose(q, torch.randn(4), key.expand(count, -1).contiguous(), 20, ranks, chosen)
    assert chosen.tolist() == list(range(count - 20, count))


@pytest.mark.parametrize(("hc", "iterations"), [(4, 20), (4, 1), (2, 20), (3, 5)])
def test_mhc_coefficients_are_the_plain_ones(kernels, hc, iterations):
    x, fn = torch.randn(5, hc, 64), torch.randn((2 + hc) * hc, hc * 64) / 8
    scale, base = torch.rand(3), torch.randn((2 + hc) * hc)
    rounds = {"iterations": iterations, "eps": 1e-6, "norm_eps": 1e-6}
    pre, post, comb = hyper.coefficients(x, fn, scale, base, **rounds)
    expected = torch.cat((pre, post, comb.flatten(0, 1))).T
    found, u = torch.empty(5, (2 + hc) * hc), torch.empty(5, 64)
    module.collapse(matrix(module, fn), scale, base, iterations, 1e-6, 1e-6, x, found, u)
    assert (found - expected).abs().max() < 2e-6
    assert (u - hyper.collapse(x, pre)).abs().max() < 1e-5


MAGNITUDES = [0.0, 1e-30, 1e-6, 1.0, 300.0, 1e6]


@pytest.mark.parametrize(("c", "r"), [(128, 64), (64, 16), (96, 32), (512, 64)])
def test_cache_entries_are_the_plain_bytes(kernels, c, r):
    x = torch.cat([torch.randn(20, c) * size for size in MAGNITUDES])
    packed = torch.empty(len(x), entries.entry_bytes(c, r), dtype=torch.uint8)
    back = torch.empty(len(x), c)
    module.entries(x, r, packed, back)
    expected = entries.pack_entry(x, r)
    assert torch.equal(entries.unpack_entry(expected, c, r), back)
    assert torch.equal(entries.unpack_entry(packed, c, r), back)


@pytest.mark.parametrize("ic", [16, 32, 64, 128])
def test_indexer_keys_are_the_plain_bytes(kernels, ic):
    x = torch.cat([torch.randn(20, ic) * size for size in MAGNITUDES])
    packed, back = (
        torch.empty(len(x), entries.key_bytes(ic), dtype=torch.uint8),
        torch.empty_like(x),
    )
    module.keys(x, packed, back)
    expected = entries.pack_key(x)
    assert torch.equal(packed, expected)
    assert torch.equal(entries.unpack_key(expected, ic), back)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("byte", [255, 254, 253, 252, 3, 2, 1, 0])
def test_fp4_scales_to_the_ends_of_their_range(kernels, rows, byte):
    codes, scale = fp4.quantize(torch.randn(20, 128))
    codes.view(torch.uint8)[0] = (torch.arange(64) * 37 % 256).byte()  # all codes
    scale.view(torch.uint8)[0] = 127
    scale.view(torch.uint8)[0, 1] = byte
    values = fp4.expand(codes, scale)
    y, w = torch.empty(rows, 20), matrix(module, codes, scale)
    for column in (*range(30, 66), 96):  # one at a time, so that no sum hides a value
        x = torch.zeros(rows, 128)
        x[:, column] = 2.0**100 if byte < 4 else 1.0
        w.multiply(x, y, True)
        expected = (values * x[0]).sum(1)  # 0 · ∞ and 0 · NaN are NaN
        for row in y:
            small = values[:, column].abs() < 2.0**-126  # taken for 0 by some machines
            same = torch.isclose(row, expected, rtol=0, atol=0, equal_nan=True)
            assert (same | (small & (row == 0))).all(), (column, row[0], expected[0])


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("form", "low"), FORMS[:4])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_products_of_nan_and_infinity(kernels, rows, form, low, poison):
    packed, values = stored(form, torch.randn(20, 128))
    if form == "fp8":
        if poison == poison:
            return  # E4M3 has no infinity
        packed[0].view(torch.uint8)[3, 70], values[3, 70] = 0xFF, poison
    else:
        packed[0][3, 70], values[3, 70] = poison, poison
    x, y = torch.randn(rows, 128), torch.empty(rows, 20)
    matrix(module, *packed).multiply(x, y, low)
    expected = x @ values.T
    assert torch.equal(y.isnan(), expected.isnan()) and torch.equal(y.isinf(), expected.isinf())
    x[0, 5] = poison
    matrix(module, *packed).multiply(x, y, low)
    assert torch.equal(y.isfinite(), (x @ values.T).isfinite())


def test_wrong_sizes_are_refused():
    codes, scale = fp8.quantize(torch.randn(8, 64))
    with pytest.raises(ValueError, match="bytes of the weight, must be 576"):
        module.Matrix("fp8", 9, 64, codes.view(torch.uint8), None, scale.float())
    with pytest.raises(ValueError, match="0 FP8 scales, must be 1"):
        module.Matrix("fp8", 8, 64, codes.view(torch.uint8))


@pytest.mark.parametrize("factor", [0.0, -1.0, 3.0, 2.0**100, 2.0**-120, float("inf")])
def test_scales_that_cannot_be_added_to_exponents_are_refused(factor):
    codes, scale = fp8.quantize(torch.randn(8, 64))
    with pytest.raises(UnsupportedError, match="no powers of two near 1"):
        matrix(module, codes, torch.full_like(scale.float(), factor))


def test_the_switch_and_the_missing_module(monkeypatch):
    native.module.cache_clear()
    monkeypatch.setenv("DSV4_NATIVE", "0")
    assert native.module() is None
    native.module.cache_clear()
    monkeypatch.delenv("DSV4_NATIVE")
    monkeypatch.setitem(sys.modules, "dsv4._native", None)
    monkeypatch.delattr("dsv4._native", raising=False)
    with pytest.warns(RuntimeWarning, match="plain operators.*compiler"):
        assert native.module() is None
    assert native.module() is None  # said once
    native.module.cache_clear()


@pytest.mark.parametrize("number", [None, native.ABI - 1, native.ABI + 1])
def test_a_module_of_other_code_is_not_used(monkeypatch, number):
    stale = ModuleType("dsv4._native")
    stale.__file__ = "old/_native.so"
    if number is not None:
        stale.ABI = number
    monkeypatch.setitem(sys.modules, "dsv4._native", stale)
    native.module.cache_clear()
    words = r"plain operators.* old/_native\.so was built from other code.*pip install -e \. again"
    with pytest.warns(RuntimeWarning, match=words) as said:
        assert native.module() is None
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert native.module() is None  # said once
    native.module.cache_clear()


def test_the_module_of_this_code_is_used():
    native.module.cache_clear()
    assert native.module() is module and module.ABI == native.ABI


def run(script):
    """A script in a process of its own."""
    source = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
        timeout=120,
    )


TASKS = """
import os, sys, torch
from dsv4.model.twin import matrix
from dsv4.ops import native
torch.set_num_threads(1)  # torch's own threads do not survive a fork
module = native.module()
module.set_threads(2)
def product(rows, columns):
    w = matrix(module, torch.ones(40, columns))
    x, y = torch.ones(rows, columns), torch.zeros(rows, 40)
    w.multiply(x, y, False)
    assert (y == columns).all()
product(400, 640)  # for which the threads come
"""


FORKED = {
    "os.fork": """
child = os.fork()
product(400, 640)
if child == 0:
    product(400, 640)
    module.set_threads(3)
    product(400, 640)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
""",
    "from a pool of processes": """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.starmap(product, [(400, 640)] * 6) == [None] * 6
product(400, 640)
""",
    "while another thread computes": """
import threading
go_on = True
def work():
    while go_on:
        product(40, 640)
thread = threading.Thread(target=work)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        product(400, 640)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
go_on = False
thread.join()
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("how", FORKED)
def test_a_forked_process_multiplies_and_ends(how):
    done = run(TASKS + FORKED[how])
    assert done.returncode == 0, done.stderr


def test_what_a_thread_of_the_pool_throws_is_raised():
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "RLIMIT_AS") or sys.platform == "darwin":
        pytest.skip("the system does not limit memory")
    script = """
import resource
w = matrix(module, torch.ones(40, 1 << 20))
x, y = torch.ones(4, 1 << 20), torch.zeros(4, 40)
free = resource.getrlimit(resource.RLIMIT_AS)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), free[1]))
failed = 0
for _ in range(100):  # in this thread or the other
    try:
        w.multiply(x, y, False)  # a panel takes 64 MiB
    except MemoryError:
        failed += 1
resource.setrlimit(resource.RLIMIT_AS, free)
product(4, 64)
sys.exit(7 if failed == 100 else 1)
"""
    done = run(TASKS + script)
    assert done.returncode == 7, done.stderr


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say")
def test_memory_kept_between_calls_does_not_pile_up():
    script = """
def held():
    return int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")
module.set_threads(1)
w = matrix(module, torch.ones(16, 96))
x, y = torch.ones(9000, 96), torch.zeros(9000, 16)
before = held()
for rows in range(4000, 9000, 50):  # a little more each time: 150 MiB, would all be kept
    w.multiply(x[:rows], y[:rows], False)
assert held() - before < 20 << 20, held() - before
"""
    done = run(TASKS + script)
    assert done.returncode == 0, done.stderr
