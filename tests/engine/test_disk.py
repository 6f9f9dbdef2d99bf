"""Prefixes on disk: found after a restart, and never a wrong answer whatever happened to a file."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from dsv4.engine.disk import DiskStore
from dsv4.generation import generate


@pytest.fixture(scope="module")
def prompt():
    chosen = random.Random(11)
    return [chosen.randrange(4, 8000) for _ in range(600)]


@pytest.fixture(scope="module")
def expected(nano, prompt):
    return generate(nano, prompt, temperature=0, max_tokens=8).ids


def run(engine, ask, prompt, expected):
    heard = ask(engine, prompt, max_tokens=8).wait()
    assert [i for i in heard.ids if i != 1] == expected
    engine.close(10)
    return heard.usage


def files(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_a_restart_goes_on_from_where_it_was(make_engine, ask, tmp_path, prompt, expected):
    first = run(make_engine(folder=tmp_path), ask, prompt, expected)
    assert first.cached == 0
    assert run(make_engine(folder=tmp_path), ask, prompt, expected).cached == 599
    edited = [*prompt[:400], prompt[400] + 1, *prompt[401:]]
    heard = ask(make_engine(folder=tmp_path), edited, max_tokens=2).wait()
    assert 400 - 160 <= heard.usage.cached <= 400


def test_another_model_finds_nothing(make_engine, ask, tmp_path, prompt, expected):
    run(make_engine(folder=tmp_path, identity=b"a"), ask, prompt, expected)
    assert run(make_engine(folder=tmp_path, identity=b"b"), ask, prompt, expected).cached == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "junk", "gone"])
def test_damaged_files_are_misses(make_engine, ask, tmp_path, prompt, expected, damage):
    run(make_engine(folder=tmp_path), ask, prompt, expected)
    for file in files(tmp_path):
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 4
        if damage == "gone":
            file.unlink()
        else:
            new = {
                "flip": bytes(raw),
                "cut": raw[: len(raw) // 3],
                "empty": b"",
                "junk": b"x" * 999,
            }
            file.write_bytes(new[damage])
    assert run(make_engine(folder=tmp_path), ask, prompt, expected).cached == 0
    for _ in range(6):  # each run meets one damaged file, and writes it anew
        cached = run(make_engine(folder=tmp_path), ask, prompt, expected).cached
    assert cached == 599


def test_one_damaged_page_costs_what_follows_it(make_engine, ask, tmp_path, prompt, expected):
    engine = make_engine(folder=tmp_path)
    keys = engine.prefix.keys(prompt)
    run(engine, ask, prompt, expected)
    (page,) = tmp_path.rglob(f"{keys[3].hex()}.page")
    page.write_bytes(page.read_bytes()[:-1] + b"?")
    assert run(make_engine(folder=tmp_path), ask, prompt, expected).cached == 256


def test_a_folder_that_cannot_be_written_to_costs_nothing_else(
    make_engine, ask, tmp_path, prompt, expected
):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert run(make_engine(folder=blocked), ask, prompt, expected).cached == 0
    assert blocked.read_text() == "not a folder"


def test_a_full_disk(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = DiskStore(tmp_path, limit=1 << 20)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        store.write("large.page", {}, [torch.zeros(5000, dtype=torch.uint8)])
        store.write("small.page", {}, [torch.ones(10)])
        store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [file.name for file in files(tmp_path)] == ["small.page"]
    assert (store.written, store.refused) == (1, 1)


def test_the_size_is_bounded_and_the_oldest_go(tmp_path):
    store = DiskStore(tmp_path, limit=10_000)
    for number in range(12):
        store.write(f"{number}.page", {"n": number}, [torch.full((500,), number).float()])
        store.flush()
        os.utime(tmp_path / f"{number}.page", (number, number))
        if number > 2:
            assert store.read("2.page").header["n"] == 2  # in use, so it stays
    store.close()
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 10_000
    assert {"2.page", "11.page"} <= {file.name for file in files(tmp_path)}


def test_a_budget_of_bytes_an_hour(tmp_path):
    store = DiskStore(tmp_path, limit=1 << 20, per_hour=5000)
    for number in range(4):
        store.write(f"{number}.page", {}, [torch.zeros(500)])
    store.close()
    assert len(files(tmp_path)) == 2 and store.refused == 2


def test_tensors_come_back_as_they_were(tmp_path):
    store = DiskStore(tmp_path, limit=1 << 20)
    tensors = [torch.randn(3, 5), torch.arange(7, dtype=torch.uint8), torch.empty(0, 4)]
    store.write("x.page", {"a": [1, "ü"]}, tensors)
    store.close()
    found = DiskStore(tmp_path, limit=1 << 20).read("x.page")
    assert found.header["a"] == [1, "ü"]
    assert all(torch.equal(a, b) for a, b in zip(found.tensors, tensors, strict=True))


WRITER = """
import sys, torch
from dsv4.engine.disk import DiskStore
store = DiskStore(sys.argv[1], limit=1 << 30)
print("ready", flush=True)
n = 0
while True:
    store.write(f"{n}.page", {"n": n}, [torch.full((200_000,), float(n))])
    store.flush()
    n += 1
"""


def test_killed_while_it_writes(tmp_path):
    for delay in (0.05, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        store = DiskStore(tmp_path, limit=1 << 30)
        assert not [file for file in files(tmp_path) if file.name.startswith(".")]
        for name in store.names():
            found = store.read(name)
            assert found is not None
            assert bool((found.tensors[0] == found.header["n"]).all())
        store.close()


def test_two_engines_on_one_folder(make_engine, ask, tmp_path, prompt, expected):
    one, two = make_engine(folder=tmp_path), make_engine(folder=tmp_path)
    heard = [ask(engine, prompt, max_tokens=8) for engine in (one, two)]
    for each in heard:
        assert [i for i in each.wait().ids if i != 1] == expected
    one.close(10)
    more = [*prompt, *heard[0].ids, 77, 78]
    one_disk = ask(make_engine(folder=tmp_path), more, max_tokens=2).wait().usage
    assert one_disk.prompt - one_disk.cached <= 2 + 16
