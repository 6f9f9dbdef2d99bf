"""Token files: the documents' ids in order, by any number of processes, after any interruption."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from dsv4.data import tokenise as module
from dsv4.data.augment import NOTHING, Augment, Encoder
from dsv4.data.document import Document, held_out
from dsv4.data.errors import DataError
from dsv4.data.tokenise import tokenise
from dsv4.protocol import encode_ids
from dsv4.tokenizer import Tokenizer


def contents(files):
    return {
        part: (file.header, file.offsets.tolist(), file.read(0, file.header.tokens).tolist())
        for part, file in files.items()
    }


def test_a_file_is_its_documents_in_order(documents, tokenizer_file, files):
    tokenizer = Tokenizer.load(tokenizer_file)
    expected = {"train": [], "validation": []}
    nbytes = dict.fromkeys(expected, 0)
    for document in documents:
        if document.messages:
            ids = encode_ids(document.messages, tokenizer, "chat")
            said = "".join(message["content"] for message in document.messages)
        else:
            said = document.text
            ids = [0, *tokenizer.encode(said), 1]
        part = "validation" if held_out(document.digest()) else "train"
        expected[part].append(ids)
        nbytes[part] += len(said.encode())
    for part, file in files.items():
        bounds = zip(file.offsets, file.offsets[1:], strict=False)
        assert [file.read(a, b).tolist() for a, b in bounds] == expected[part]
        assert file.header.documents == len(expected[part]) > 5
        assert file.header.nbytes == nbytes[part]


def test_processes_do_not_change_the_files(documents, tokenizer_file, tmp_path):
    few = documents[:700]
    one, two = (
        tokenise(few, tokenizer_file, tmp_path / str(n), source="w", augment=Augment(), workers=n)
        for n in (1, 2)
    )
    assert contents(one) == contents(two)


def test_what_was_interrupted_goes_on(documents, tokenizer_file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 50)
    monkeypatch.setattr(module, "SYNC", 200)
    whole = tokenise(documents, tokenizer_file, tmp_path / "a", source="w", augment=Augment())

    def killed_after(count):
        yield from documents[:count]
        raise KeyboardInterrupt

    folder, encoded = tmp_path / "b", []
    for count in (30, 455, 470, 1210):
        with pytest.raises(KeyboardInterrupt):
            tokenise(killed_after(count), tokenizer_file, folder, source="w", augment=Augment())
        assert not list(folder.glob("*.index"))
    original = module.encode_chunk
    monkeypatch.setattr(
        module, "encode_chunk", lambda e, chunk: encoded.extend(chunk) or original(e, chunk)
    )
    resumed = tokenise(documents, tokenizer_file, folder, source="w", augment=Augment())
    assert contents(resumed) == contents(whole)
    assert encoded == documents[1200:]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{part}.{kind}" for part in module.PARTS for kind in ("tokens", "index")
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from dsv4.data import tokenise as module
from dsv4.data.augment import NOTHING
from dsv4.data.document import Document

module.CHUNK, module.SYNC = 50, 200

def documents():
    for n in range(1000):
        if n == 730:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Document(f"the cat number {n} sat on {n * n} mats")

module.tokenise(documents(), Path(sys.argv[1]), Path(sys.argv[2]), source="w", augment=NOTHING)
"""


def test_a_kill_at_any_moment_leaves_what_was_synced(tokenizer_file, tmp_path, monkeypatch):
    folder, texts = tmp_path / "a", [f"the cat number {n} sat on {n * n} mats" for n in range(1000)]
    done = subprocess.run([sys.executable, "-c", KILLED, tokenizer_file, folder], check=False)
    assert done.returncode == -signal.SIGKILL
    assert json.loads((folder / ".tokenising.json").read_text())["documents"] == 600
    encoded, original = [], module.encode_chunk
    monkeypatch.setattr(
        module, "encode_chunk", lambda e, chunk: encoded.extend(chunk) or original(e, chunk)
    )
    documents = [Document(text) for text in texts]
    resumed = tokenise(documents, tokenizer_file, folder, source="w", augment=NOTHING)
    whole = tokenise(documents, tokenizer_file, tmp_path / "b", source="w", augment=NOTHING)
    assert contents(resumed) == contents(whole) and encoded[:400] == documents[600:]


ORPHANS = """
import multiprocessing, os, signal, sys
from pathlib import Path
from dsv4.data.augment import NOTHING
from dsv4.data.document import Document
from dsv4.data.tokenise import tokenise

def documents():
    for n in range(10**9):
        if n == 5000:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        yield Document(f"the cat number {n} sat on {n * n} mats")

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    tokenise(documents(), Path(sys.argv[1]), folder, source="w", augment=NOTHING, workers=2)
"""


def test_processes_end_with_the_one_that_began_them(tokenizer_file, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    command = [sys.executable, script, tokenizer_file, tmp_path / "a"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    workers = [int(number) for number in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(workers) == 2
    for _ in range(200):
        if not any(map(lives, workers)):
            break
        time.sleep(0.1)
    assert not any(map(lives, workers))


def lives(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_is_ended_is_told(documents, tokenizer_file, tmp_path, monkeypatch):
    def ended(*_):
        raise BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", ended)
    with pytest.raises(DataError, match="was ended, perhaps for want of memory: the same command"):
        tokenise(documents, tokenizer_file, tmp_path, source="w", augment=NOTHING, workers=2)


def test_conversations_of_every_kind_read_as_the_protocol_writes_them(tokenizer_file):
    tokenizer = Tokenizer.load(tokenizer_file)
    encoder = Encoder(tokenizer, NOTHING)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    ask = {"role": "user", "content": "Hi"}
    talks = {
        "chat": [{"role": "system", "content": "S", "tools": tools}, ask,
                 {"role": "assistant", "content": "", "tool_calls": [call]},
                 {"role": "tool", "tool_call_id": "1", "content": "2"},
                 {"role": "assistant", "content": "two"}],
        "thinking": [ask, {"role": "assistant", "content": "A", "reasoning_content": "R"}, ask,
                     {"role": "assistant", "content": "B", "reasoning_content": "Q"}],
    }  # fmt: skip
    for mode, messages in talks.items():
        ids = encoder(Document(messages=tuple(messages))).ids
        assert ids == encode_ids(messages, tokenizer, mode)


def test_what_stands_is_kept_and_what_is_of_another_source_replaced(
    documents, tokenizer_file, tmp_path
):
    def make(documents, source):
        return tokenise(documents, tokenizer_file, tmp_path, source=source, augment=NOTHING)

    first = make(documents[:200], "w")
    again = make(iter(()), "w")  # nothing is read
    assert contents(again) == contents(first)
    other = make(documents[:300], "v")
    assert other["train"].header.documents > first["train"].header.documents
    whole = contents(other)
    (tmp_path / "train.tokens").write_bytes(b"")
    assert contents(make(documents[:300], "v")) == whole


def test_a_journal_without_its_parts_begins_again(documents, tokenizer_file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 50)
    monkeypatch.setattr(module, "SYNC", 50)

    def make(documents):
        return tokenise(documents, tokenizer_file, tmp_path, source="w", augment=NOTHING)

    def cut():
        yield from documents[:120]
        raise KeyboardInterrupt

    for damage in (b"", b"123"):
        with pytest.raises(KeyboardInterrupt):
            make(cut())
        (tmp_path / ".train.tokens.part").write_bytes(damage)
        (tmp_path / "train.index").unlink(missing_ok=True)
        assert make(documents[:120])["train"].header.documents > 100
        (tmp_path / "train.index").unlink()


def test_text_that_no_tokenizer_takes_is_named(tokenizer_file, tmp_path):
    for document in (
        Document("half \ud83d", where="a.jsonl:7"),
        Document(messages=({"role": "user", "content": "x \udc00"},), where="a.jsonl:7"),
    ):
        with pytest.raises(DataError, match=r"a\.jsonl:7: .*half of a character"):
            tokenise([document], tokenizer_file, tmp_path, source="w", augment=NOTHING)


def test_control_tokens_never_come_from_text(tokenizer_file):
    tokenizer = Tokenizer.load(tokenizer_file)
    control = set(tokenizer.backend.get_added_tokens_decoder())
    text = "".join(map(str, tokenizer._control))
    encoder = Encoder(tokenizer, Augment(fim=1, split=1))
    prose = encoder(Document(text)).ids
    assert [i for i in prose if i in control] == [
        tokenizer.token_id(t)
        for t in (
            "<｜begin▁of▁sentence｜>",
            *("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
            "<｜end▁of▁sentence｜>",
        )
    ]
    chat = encoder(Document.exchange(text, text)).ids
    assert [tokenizer.control_text(i) for i in chat if i in control] == [
        "<｜begin▁of▁sentence｜>",
        *("<｜User｜>", "<｜Assistant｜>", "</think>"),
        "<｜end▁of▁sentence｜>",
    ]


def test_the_place_of_a_document_follows_from_its_key_alone():
    one, other = (Document.exchange("2 + 2?", answer, key="2+2") for answer in ("4", "four"))
    assert one.digest() == other.digest() == Document("2+2").digest()
    pair = Document.exchange("a", "b")
    assert pair.digest() == Document("ab").digest()


def test_np_types_of_pieces(documents, tokenizer_file):
    encoder = Encoder(Tokenizer.load(tokenizer_file), NOTHING)
    train, validation = module.encode_chunk(encoder, documents[:3])
    assert train.ids.dtype == np.uint32 and len(validation.ids) == 0
