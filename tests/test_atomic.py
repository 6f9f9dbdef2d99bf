import pytest

from dsv4.atomic import WriteError, discard, replacing, whole


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    file = tmp_path / "file"
    with replacing(file) as stream:
        stream.write(b"first")
        assert not file.exists()
    assert file.read_bytes() == b"first"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), replacing(file) as stream:
            stream.write(b"half")
            raise error
        assert file.read_bytes() == b"first" and list(tmp_path.iterdir()) == [file]


def test_what_the_system_refuses_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a file").touch()
    for file in (tmp_path / "folder", tmp_path / "a file/in it", tmp_path / "nowhere/file"):
        refused = pytest.raises(WriteError, match=f"^{file} could not be written")
        with refused as error, replacing(file) as stream:
            stream.write(b"text")
        assert "\n" not in str(error.value)
    assert len(list(tmp_path.iterdir())) == 2


def test_one_file_of_many_keeps_the_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError), whole(tmp_path / "nowhere" / "file"):
        raise AssertionError("nothing is there to write to")
    with pytest.raises(ValueError), whole(tmp_path / "file"):
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_what_is_discarded_loses_its_name_first(tmp_path, monkeypatch):
    folder, hidden = tmp_path / "folder", tmp_path / ".folder.removing"
    (folder / "in").mkdir(parents=True)
    (folder / "in/file").touch()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed here
        discard(folder)
    assert [path.name for path in tmp_path.iterdir()] == [hidden.name]
    folder.mkdir()
    discard(folder)  # what was left goes too
    (tmp_path / "file").touch()
    discard(tmp_path / "file")
    discard(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "bad")))
    folder.mkdir()
    with pytest.raises(OSError, match=r"folder could not be removed \(bad\)"):
        discard(folder)
