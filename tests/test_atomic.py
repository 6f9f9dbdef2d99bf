import pytest

from dsv4.atomic import WriteError, replacing


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
