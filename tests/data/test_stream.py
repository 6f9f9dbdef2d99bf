"""Every token once an epoch, from any position, whatever the rows' length meanwhile."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.data.rows import lay
from dsv4.data.stream import Span, Stream, merge, pack


def tokens_of(rows):
    return sorted(t for row in rows for s in row for t in range(s.start, s.start + s.length))


def epoch_of(stream, seq_len):
    rows, epoch = [], stream.epoch
    while stream.epoch == epoch:
        rows.append(stream.next(seq_len))
    return rows


@pytest.mark.parametrize("seq_len, window", [(64, 16384), (17, 100), (512, 37), (3, 500)])
def test_an_epoch_is_a_permutation_of_the_tokens(files, seq_len, window):
    file = files["train"]
    stream = Stream(file, 0, window=window)
    first, second = epoch_of(stream, seq_len), epoch_of(stream, seq_len)
    for rows in (first, second):
        assert tokens_of(rows) == list(range(file.header.tokens))
        assert all(sum(span.length for span in row) <= seq_len for row in rows)
    assert first != second
    assert first == epoch_of(Stream(file, 0, window=window), seq_len)
    assert first != epoch_of(Stream(file, 1, window=window), seq_len)


def test_only_what_is_longer_than_a_row_is_cut(files):
    file = files["train"]
    ends = set(file.offsets.tolist())
    for row in epoch_of(Stream(file, 0), 48):
        for span in row:
            whole = span.start in ends and span.start + span.length == span.end
            document = np.searchsorted(file.offsets, span.start, "right") - 1
            assert whole or file.offsets[document + 1] - file.offsets[document] > 48


def test_a_position_is_exact(files):
    stream = Stream(files["train"], 3, window=200)
    for _ in range(150):
        stream.next(64)
    state = stream.state_dict()
    rest = [stream.next(64) for _ in range(400)]
    other = Stream(files["train"], 3, window=200)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert [other.next(64) for _ in range(400)] == rest


def test_rows_that_become_longer_lose_nothing_and_double_nothing(files):
    file = files["train"]
    stream = Stream(file, 3, window=400)
    rows, states = [], []
    lengths = [16] * 130 + [64] * 41 + [16] * 7 + [200] * 3
    while stream.epoch == 0:
        states.append(stream.state_dict())
        rows.append(stream.next(lengths[len(rows)] if len(rows) < len(lengths) else 300))
    assert tokens_of(rows) == list(range(file.header.tokens))
    assert len(states[180]["taken"]) == 4
    for at in (0, 1, 130, 131, 175, 180, 185):
        other = Stream(file, 3, window=400)
        other.load_state_dict(states[at])
        again = [other.next(lengths[n] if n < len(lengths) else 300) for n in range(at, len(rows))]
        assert again == rows[at:]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 60)), max_size=8), st.booleans())
def test_any_lengths_and_any_stops_read_every_token_once(files, lengths, saved):
    file = files["train"]
    stream, rows = Stream(file, 0, window=300), []
    for seq_len, count in [*lengths, (100, 10**9)]:
        for _ in range(count):
            if stream.epoch:
                break
            rows.append(stream.next(seq_len))
        if saved:
            state, stream = stream.state_dict(), Stream(file, 0, window=300)
            stream.load_state_dict(state)
    assert tokens_of(rows) == list(range(file.header.tokens))


def test_pieces_of_a_document_are_joined_when_rows_grow():
    rows = pack([Span(0, 50, 50), Span(50, 7, 57)], 16)
    assert sorted(merge(rows)) == [Span(0, 50, 50), Span(50, 7, 57)]
    left = [row for row in rows if not any(span.start == 16 for span in row)]
    assert Span(0, 16, 50) in merge(left) and Span(32, 18, 50) in merge(left)


def test_targets_stop_at_documents_and_go_on_at_cuts(files):
    file = files["train"]
    stream = Stream(file, 0)
    chosen = [stream.next(40) for _ in range(60)]
    laid = lay([(file, row) for row in chosen], 40, pad=1)
    everything = file.read(0, file.header.tokens).astype(np.int64)
    cut = 0
    for number, row in enumerate(chosen):
        at = 0
        assert laid.documents[number] == [span.length for span in row]
        for start, length, end in row:
            for t in range(start, start + length):
                assert laid.ids[number, at] == everything[t]
                expected = [everything[t + k] if t + k < end else -100 for k in (1, 2)]
                assert [laid.targets[number, at], laid.mtp_targets[number, at]] == expected
                assert laid.next_ids[number, at] == (1 if expected[0] == -100 else expected[0])
                at += 1
            cut += start + length < end
        assert (laid.ids[number, at:] == 1).all() and (laid.targets[number, at:] == -100).all()
        assert (laid.mtp_targets[number, at:] == -100).all()
    assert cut > 5
