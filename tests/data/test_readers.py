"""Files → documents, streamed; what is bad is named by its file and line."""

import gzip
import json
import os
import re
import sys

import pytest

from dsv4.data import readers
from dsv4.data.document import Document
from dsv4.data.errors import DataError
from dsv4.data.readers import files_of, read

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def contents(documents):
    return [(document.text, list(document.messages)) for document in documents]


def test_text_lines_and_their_gzip(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("\ufeffOne.\n\nTwo\u00e9.\r\n", newline="")
    lines = write(tmp_path / "b.jsonl", {"text": "x"}, {"messages": CHAT}, {"text": ""})
    with lines.open("a") as file:
        file.write("\n   \n")
    zipped = tmp_path / "c.jsonl.gz"
    zipped.write_bytes(gzip.compress(lines.read_bytes()))
    expected = [("x", []), ("", CHAT)]
    assert contents(read([text])) == [("One.\n\nTwo\u00e9.\r\n", [])]
    assert contents(read([lines])) == contents(read([zipped])) == expected
    assert [d.where for d in read([lines])] == [f"{lines}:{n}" for n in (1, 2)]


def test_another_field(tmp_path):
    file = write(tmp_path / "a.jsonl", {"body": "x", "text": "y"})
    assert contents(read([file], field="body")) == [("x", [])]


def test_a_long_text_is_cut_at_blank_lines_and_never_whole_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONG", 100)
    file = tmp_path / "a.txt"
    paragraphs = [f"Paragraph {n}.\nMore of it.\n\n" for n in range(40)]
    text = "".join(paragraphs) + "x" * 150 + "\n" + "y\n" * 90
    file.write_text(text)
    found = list(read([file]))
    assert "".join(document.text for document in found) == text
    assert all(len(document.text) <= 350 for document in found)
    assert all(d.text.startswith("Paragraph") and d.text.endswith("\n\n") for d in found[:9])
    assert found[1].where == f"{file}:{found[0].text.count(chr(10)) + 1}"


def test_folders_globs_and_files_each_once(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    b, a = write(tmp_path / "in/b.jsonl", {"text": "x"}), tmp_path / "a.txt"
    a.write_text("y")
    (tmp_path / "picture.png").touch()
    assert files_of([tmp_path]) == [a, b]
    assert files_of([str(tmp_path / "**/*.jsonl"), tmp_path, a]) == [b, a]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files_of(["~/a.txt"]) == [a]
    odd = tmp_path / "odd[1].txt"
    odd.touch()
    assert files_of([odd]) == [odd]
    for nothing in ("*.jsonl", "absent.txt"):
        with pytest.raises(DataError, match="names no file"):
            files_of([tmp_path / nothing])
    with pytest.raises(DataError, match="is of no kind that can be read"):
        list(read([tmp_path / "picture.png"]))


BAD = [
    ('{"text": ', "not JSON"),
    ("[" * 100_000, "nested too deeply"),
    ("7", "must be an object"),
    ("[]", "must be an object"),
    ('{"text": 7}', "text = '7': must be text"),
    ('{"other": "x"}', "neither 'text' nor 'messages' but 'other'"),
    ("{}", "neither 'text' nor 'messages' but nothing"),
    ('{"messages": "x"}', "messages: must be a list"),
    ('{"messages": [{"role": "cat", "content": ""}]}', r"messages[0].role"),
    (b'{"text": "\xff"}', "not UTF-8"),
    ('{"text": "half \\ud83d"}', "half of a character"),
    ('{"messages": [{"role": "user", "content": "\\udc00"}]}', "half of a character"),
]


@pytest.mark.parametrize("line, what", BAD)
def test_a_bad_line_is_named_and_can_be_left_out(tmp_path, line, what):
    file = tmp_path / "a.jsonl"
    raw = line if isinstance(line, bytes) else line.encode()
    file.write_bytes(b'{"text": "x"}\n' + raw + b'\n{"text": "y"}\n')
    documents = read([file])
    assert next(documents).text == "x"
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{re.escape(what)}") as error:
        next(documents)
    assert "\n" not in str(error.value)
    told = []
    assert [d.text for d in read([file], on_bad=told.append)] == ["x", "y"]
    assert [str(bad) for bad in told] == [str(error.value)]


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    short = tmp_path / "a.jsonl.gz"
    short.write_bytes(gzip.compress(b'{"text": "x"}\n' * 9999)[:60])
    pipe = tmp_path / "b.txt"
    os.mkfifo(pipe)
    noise = tmp_path / "c.parquet"
    noise.write_bytes(b"PAR1 no")
    for file in (short, pipe, noise, tmp_path / "absent.txt"):
        with pytest.raises(DataError, match=file.name):
            list(read([file]))
    monkeypatch.setattr(readers, "LONGEST_LINE", 10)
    with pytest.raises(DataError, match=r"d\.jsonl:1: longer than 10 bytes"):
        list(read([write(tmp_path / "d.jsonl", {"text": "x" * 20})]))


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    chat = [CHAT[0], {"role": "assistant", "content": "", "tool_calls": calls}]
    rows = [{"text": f"t{n}", "messages": None} for n in range(600)]
    rows += [{"text": None, "messages": CHAT}, {"text": None, "messages": chat}]
    file = tmp_path / "a.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), file)
    expected = [(f"t{n}", []) for n in range(600)] + [("", CHAT), ("", chat)]
    assert contents(read([file])) == expected
    parquet.write_table(arrow.Table.from_pylist([{"text": "x"}, {"text": None}]), file)
    with pytest.raises(DataError, match=r"a\.parquet:row 2: has neither 'text' nor 'messages'"):
        list(read([file]))
    told = []
    assert contents(read([file], on_bad=told.append)) == [("x", [])] and len(told) == 1


def test_without_pyarrow_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'dsv4\[data\]'"):
        list(read([tmp_path / "a.parquet"]))


def test_a_document_keeps_its_place(tmp_path):
    file = write(tmp_path / "a.jsonl", {"text": "x"})
    assert next(read([file])) == Document("x", where=f"{file}:1")
