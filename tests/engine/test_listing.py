"""A folder's files, as far as they are known."""

import time

from dsv4.engine import disk, listing
from dsv4.engine.disk import DiskStore
from dsv4.engine.listing import Listing


def put(folder, name, size=1):
    (folder / name).write_bytes(b"x" * size)


def test_what_others_do_is_seen_after_a_rest(tmp_path, monkeypatch):
    put(tmp_path, "a.page", 3)
    put(tmp_path, ".hidden")
    found = Listing(tmp_path)
    assert found.sizes() == {"a.page": 3} and "a.page" in found
    monkeypatch.setattr(found, "_next", float("inf"))
    put(tmp_path, "a.1.state")
    found.add("b.page", 7)
    found.drop("a.page")
    found.drop("none")
    assert found.sizes() == {"b.page": 7} and not found.group("a")
    monkeypatch.setattr(found, "_next", 0.0)
    assert found.group("a") == ["a.1.state", "a.page"]


def test_a_folder_that_is_gone_is_empty(tmp_path):
    folder = tmp_path / "x"
    found = Listing(folder)
    assert not found.sizes()
    folder.mkdir()
    put(folder, "a.page")
    found._next = 0.0
    assert "a.page" in found
    (folder / "a.page").unlink()
    folder.rmdir()
    found._next = 0.0
    assert "a.page" not in found and not found.group("a")


def test_many_files_are_not_looked_through_for_each_that_is_written(tmp_path, monkeypatch):
    store, looks = DiskStore(tmp_path, limit=1 << 20), []
    scandir = listing.os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda path: looks.append(1) or scandir(path))
    monkeypatch.setattr(listing, "REST", 1e9)
    for number in range(20):
        store.write(f"{number}.page", {}, [disk.torch.zeros(4)])
        store.write(f"{number}.page", {}, [disk.torch.zeros(4)])  # it waits already
        assert store.holds(f"{number}.page")
    store.flush()
    assert store.written == 20 == len(store.names()) and len(looks) == 1
    (tmp_path / "3.page").unlink()
    assert store.read("3.page") is None and not store.holds("3.page")
    store.close()


def test_others_files_are_found_without_waiting_long(tmp_path):
    one, two = (DiskStore(tmp_path, limit=1 << 20) for _ in range(2))
    assert not two.names()
    one.write("a.page", {}, [disk.torch.zeros(4)])
    one.close()
    until = time.monotonic() + 5
    while not two.holds("a.page"):
        assert time.monotonic() < until
        time.sleep(0.01)
    two.close()
