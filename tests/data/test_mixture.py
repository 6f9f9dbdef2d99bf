"""Shares keep to their weights; the order follows from the position, whatever batches and ranks."""

import json

import numpy as np
import pytest

from dsv4.data import bpe
from dsv4.data.augment import NOTHING
from dsv4.data.errors import DataError
from dsv4.data.mixture import Mixture, Source, in_order
from dsv4.data.tokenise import tokenise


@pytest.fixture(scope="module")
def second(documents, tokenizer_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    made = tokenise(documents[:400], tokenizer_file, folder, source="w", augment=NOTHING)
    return made["train"]


@pytest.fixture
def mix(files, second):
    def make(seed=0, first=3.0, epochs=None):
        sources = [Source("one", files["train"], first), Source("two", second, 1.0, epochs)]
        return Mixture(sources, seed=seed, pad=1)

    return make


def ids(rows):
    return rows.ids.tolist()


def test_shares_keep_to_their_weights(mix, second):
    mixture = mix()
    counts = {"one": 0, "two": 0}
    for number in range(1, 400):
        mixture.next(1, 32)
        counts = {n: s["room"] // 32 for n, s in mixture.state_dict()["sources"].items()}
        assert abs(counts["two"] - number / 4) <= 1
    assert sum(counts.values()) == 399


def test_the_default_weight_is_the_number_of_tokens(files, second):
    mixture = Mixture([Source("one", files["train"]), Source("two", second)], seed=0, pad=1)
    mixture.next(100, 32)
    share = files["train"].header.tokens / (files["train"].header.tokens + second.header.tokens)
    room = mixture.state_dict()["sources"]["one"]["room"]
    assert abs(room / 3200 - share) <= 0.01


def test_batches_and_ranks_do_not_change_the_order(mix):
    one = mix()
    rows = [row for _ in range(60) for row in ids(one.next(1, 48))]
    ramp = mix()
    assert [row for size in (2, 4, 6, 8, 40) for row in ids(ramp.next(size, 48))] == rows
    ranks = [mix() for _ in range(3)]
    spread = [[ids(m.next(6, 48, rank=r, world=3)) for r, m in enumerate(ranks)] for _ in range(10)]
    for step, parts in enumerate(spread):
        for rank, part in enumerate(parts):
            assert part == rows[step * 6 : (step + 1) * 6][rank::3]
    with pytest.raises(ValueError, match="5 rows do not spread evenly over 2 ranks"):
        mix().next(5, 48, rank=0, world=2)


def test_a_position_goes_through_json_and_is_exact(mix):
    mixture = mix()
    for size, seq_len in ((4, 32), (8, 32), (3, 100), (40, 32)):
        mixture.next(size, seq_len)
    state = json.loads(json.dumps(mixture.state_dict()))
    rest = [ids(mixture.next(size, 64)) for size in (1, 30, 200)]
    other = mix()
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert [ids(other.next(size, 64)) for size in (1, 30, 200)] == rest
    mixture.load_state_dict(state)  # back, as after a spike
    assert ids(mixture.next(1, 64)) == rest[0]


def test_seeking_equals_reading(mix):
    read = mix()
    batches = [ids(read.next(7, 32)) for _ in range(9)]
    sought = mix()
    for step in (5, 8, 0, 3):
        sought.seek(step * 7, 32)
        assert ids(sought.next(7, 32)) == batches[step]


def test_epochs_are_a_limit(mix, second):
    mixture = mix(first=1.0, epochs=2)
    mixture.next(2000, 32)
    state = mixture.state_dict()["sources"]
    assert state["two"]["read"] == 2 * second.header.tokens
    assert state["two"]["epoch"] == 2 and state["two"]["taken"] == []
    alone = Mixture([Source("two", second, epochs=1)], seed=0, pad=1)
    with pytest.raises(DataError, match=r"the data ends after \d+ rows: allow more epochs"):
        for _ in range(10_000):
            alone.next(1, 32)
    assert alone.state_dict()["sources"]["two"]["read"] == second.header.tokens


def test_an_epoch_holds_every_token_once(second):
    mixture = Mixture([Source("two", second, epochs=1)], seed=0, pad=1)
    seen = []
    while mixture.state_dict()["sources"]["two"]["epoch"] == 0:
        rows = mixture.next(1, 64)
        length = sum(rows.documents[0])
        seen += rows.ids[0, :length].tolist()
    everything = second.read(0, second.header.tokens)
    assert np.array_equal(np.bincount(seen, minlength=400), np.bincount(everything, minlength=400))


def test_new_weights_count_from_where_they_begin(mix):
    mixture = mix()
    mixture.next(200, 32)
    other = mix(first=1.0)
    other.load_state_dict(mixture.state_dict())
    other.next(20, 32)
    room = {name: own["room"] for name, own in other.state_dict()["sources"].items()}
    assert room == {"one": 320, "two": 320}
    assert other.rows == 220


def test_a_stage_of_long_documents(files):
    file = files["train"]
    lengths = np.diff(file.offsets)

    def make(least=None, epochs=None):
        return Mixture([Source("one", file, epochs=epochs, least=least)], seed=0, pad=1)

    long, seen = make(least=40, epochs=1), []
    while long.state_dict()["sources"]["one"]["epoch"] == 0:
        seen += long.next(1, 200).documents[0]
    assert sorted(seen) == sorted(lengths[lengths >= 40].tolist())
    assert long.sources["one"].share == sum(seen) < file.header.tokens
    with pytest.raises(DataError, match="the data ends"):
        long.next(1, 200)
    short = make()
    short.next(30, 100)
    later = make(least=40)
    later.load_state_dict(short.state_dict())
    state = later.state_dict()["sources"]["one"]
    assert (state["epoch"], state["window"], state["taken"]) == (1, 0, [])
    assert all(length >= 40 for row in later.next(20, 200).documents for length in row)
    with pytest.raises(DataError, match=r"holds no document of 9,000 tokens"):
        make(least=9000)


def test_positions_of_other_data_are_refused(mix, files, second):
    state = mix().state_dict()
    with pytest.raises(DataError, match="of seed 0, not 1"):
        mix(seed=1).load_state_dict(state)
    swapped = [Source("two", files["train"]), Source("one", second)]
    with pytest.raises(DataError, match="not the file that this position is in"):
        Mixture(swapped, seed=0, pad=1).load_state_dict(state)


def test_mixtures_that_make_no_sense(files, second, documents, tmp_path):
    one = Source("one", files["train"])
    for sources in ([], [one, Source("one", second)]):
        with pytest.raises(DataError, match="a name of its own"):
            Mixture(sources, seed=0, pad=1)
    for field in ("weight", "epochs", "least"):
        with pytest.raises(ValueError, match=f"one: {field} = "):
            Source("one", files["train"], **{field: 0.0})
    (other, _) = bpe.save_bpe(bpe.train_bpe(bpe.sample(documents), 350), tmp_path, 1024)
    made = tokenise(documents[:90], other, tmp_path / "b", source="w", augment=NOTHING)
    with pytest.raises(DataError, match="different tokenizers"):
        Mixture([one, Source("two", made["train"])], seed=0, pad=1)


def test_validation_reads_everything_once_in_order(files):
    file = files["validation"]
    batches = list(in_order(file, 3, 64, 1))
    lengths = [sum(row) for batch in batches for row in batch.documents]
    assert sum(lengths) == file.header.tokens
    counted = sum(int((batch.targets >= 0).sum()) for batch in batches)
    assert counted == file.header.tokens - file.header.documents
    assert all(len(batch.ids) == 3 for batch in batches[:-1])
