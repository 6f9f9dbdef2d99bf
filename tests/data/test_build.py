"""A folder of prepared data: one tokenizer, the sources' files, mixture.json, a notice."""

import json
import shutil

import pytest

from dsv4.data.augment import NOTHING
from dsv4.data.build import Input, build, one_in, own_text, thinned
from dsv4.data.errors import DataError
from dsv4.data.mixture import Mixture
from dsv4.data.prepared import open_sources


@pytest.fixture
def make(documents, tokenizer_file, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copy(tokenizer_file, tmp_path / "data")
    parts = {"one": documents[:900], "two": documents[900:]}

    def make(*names, **changes):
        inputs = [Input(n, lambda n=n: iter(parts[n]), n, f"{n}: by hand") for n in names]
        options = {"vocab_size": 360, "context": 1024, "augment": NOTHING, **changes}
        return build(inputs, tmp_path / "data", **options)

    make.folder = tmp_path / "data"
    return make


def test_a_folder_that_can_be_mixed(make):
    made = make("one", "two")
    sources = open_sources(make.folder)
    assert [source.name for source in sources] == ["one", "two"]
    assert [s.file.header for s in sources] == [made[n]["train"].header for n in ("one", "two")]
    rows = Mixture(sources, seed=0, pad=1).next(8, 64)
    assert rows.ids.shape == (8, 64)
    held = open_sources(make.folder, "validation")
    assert all(s.file.header.nbytes > 0 for s in held)
    assert "one: by hand\ntwo: by hand" in (make.folder / "NOTICE").read_text()


def test_the_tokenizer_stays_when_sources_come(make):
    first = make("one")["one"]["train"]
    tokenizer = (make.folder / "tokenizer.json").read_bytes()
    second = make("one", "two")
    assert (make.folder / "tokenizer.json").read_bytes() == tokenizer
    assert second["one"]["train"].header == first.header
    with pytest.raises(ValueError, match="another model's tokenizer"):
        make("one", vocab_size=340)


def test_a_part_of_a_source_is_one_document_in_so_many(documents, tokenizer_file, tmp_path):
    shutil.copy(tokenizer_file, tmp_path)
    reads = []
    whole = Input("one", lambda: reads.append(1) or iter(documents), "one", "one: by hand")
    options = {"vocab_size": 360, "context": 1024, "augment": NOTHING}
    part = thinned(whole, 8)
    assert list(part.documents()) == documents[::8] == list(part.documents()) and len(reads) == 1
    assert one_in(tmp_path) == 0
    made = build([part], tmp_path, **options)["one"]
    assert one_in(tmp_path) == 8
    assert sum(file.header.documents for file in made.values()) == len(documents[::8])
    build([whole], tmp_path, **options)
    assert one_in(tmp_path) == 1
    build([thinned(whole, 1 << 10)], tmp_path, **options)
    assert one_in(tmp_path) == 1 << 10


def test_a_source_that_is_repeated_weighs_more(documents, tmp_path):
    inputs = [
        Input(name, lambda: iter(documents[:300]), name, name, repeat)
        for name, repeat in (("one", 1), ("often", 2.5))
    ]
    build(inputs, tmp_path, vocab_size=350, context=1024, augment=NOTHING)
    one, often = open_sources(tmp_path)
    assert one.weight is None
    assert often.weight == round(2.5 * one.file.header.tokens)


def test_weights_and_epochs_are_there_to_be_edited(make):
    make("one", "two")
    file = make.folder / "mixture.json"
    limits = json.loads(file.read_text())
    assert limits == {name: dict.fromkeys(("weight", "epochs", "least")) for name in ("one", "two")}
    limits["one"] = {"weight": 3, "epochs": 1.5, "least": 20}
    file.write_text(json.dumps(limits))
    make("one", "two")  # keeps them
    assert json.loads(file.read_text()) == limits
    del limits["two"]
    file.write_text(json.dumps(limits))
    (source,) = open_sources(make.folder)
    assert (source.weight, source.epochs, source.least) == (3, 1.5, 20)


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "7", '{"one": 3}', '{"one": {"weight": 0}}', '{"one": {"weight": "3"}}',
     '{"one": {"epochs": NaN}}', '{"one": {"wieght": 3}}', '{"one": {"weight": true}}'],
)  # fmt: skip
def test_a_mixture_that_cannot_be_used(tmp_path, text):
    (tmp_path / "mixture.json").write_text(text)
    with pytest.raises(DataError, match=r"mixture\.json cannot be used") as error:
        open_sources(tmp_path)
    assert "\n" not in str(error.value)


def test_damage_and_absence(make):
    with pytest.raises(DataError, match=r"no folder of text .*nowhere: `dsv4 data build` makes"):
        open_sources(make.folder / "nowhere")
    with pytest.raises(DataError, match=r"mixture\.json cannot be used .*No such file"):
        open_sources(make.folder)
    make("one", "two")
    path = make.folder / "two/train.tokens"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DataError, match=r"two/train\.tokens is damaged"):
        open_sources(make.folder)
    open_sources(make.folder, verify=False)
    with pytest.raises(DataError, match="under a name of its own"):
        make("one", "one")
    with pytest.raises(DataError, match="under a name of its own"):
        make()


def test_own_files_are_known_by_what_they_are(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("some text")
    first = own_text("mine", [file])
    assert own_text("mine", [file]).identity == first.identity
    assert own_text("mine", [file], field="body").identity != first.identity
    file.write_text("some other text")
    assert own_text("mine", [file]).identity != first.identity
    assert [d.text for d in first.documents()] == ["some other text"]
