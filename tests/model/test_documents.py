"""A document among others in a row is what it is in a row of its own."""

import pytest
import torch

from dsv4.model.documents import DocumentSpan

ROWS = [[5, 130, 1, 40], [176], [128, 3], [4, 4, 4, 100, 60]]
WIDTH = 176


def packed(make_ids):
    return make_ids(len(ROWS), WIDTH)


def places(rows=ROWS):
    """Row, first column and length of each document."""
    for row, lengths in enumerate(rows):
        first = 0
        for length in lengths:
            yield row, first, length
            first += length


def assert_close(found, expected):
    assert torch.allclose(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("topk", [8, 3])
def test_a_document_sees_itself_alone(make_model, make_ids, dense, topk):
    model, ids = make_model(index_topk=topk), packed(make_ids)
    with torch.no_grad():
        whole, alone = model.new_studies(dense=dense), model.new_studies(dense=dense)
        streams = model.streams(ids, documents=ROWS, studies=whole)
        drafted = model.draft_streams(streams, ids, documents=ROWS, study=whole[-1])
        for row, first, length in places():
            part = slice(first, first + length)
            expected = model.streams(ids[row : row + 1, part], studies=alone)
            assert_close(streams[row, part], expected[0])
            expected = model.draft_streams(expected, ids[row : row + 1, part], study=alone[-1])
            assert_close(drafted[row, part], expected[0])


def test_without_studies_it_is_the_same_to_the_bit(make_model, make_ids):
    model, ids = make_model(), packed(make_ids)
    with torch.no_grad():
        one = model.streams(ids, documents=ROWS)
        assert torch.equal(one, model.streams(ids, documents=ROWS, studies=model.new_studies()))


def test_another_document_changes_no_bit(make_model, make_ids):
    model, ids = make_model(), packed(make_ids)
    other = ids.clone()
    other[0, 5:135] = make_ids(1, 130)[0]
    with torch.no_grad():
        before, after = model.streams(ids, documents=ROWS), model.streams(other, documents=ROWS)
    kept = torch.ones(4, WIDTH, dtype=torch.bool)
    kept[0, 5:135] = False
    assert torch.equal(before[kept], after[kept])
    assert not torch.equal(before[0, 5:135], after[0, 5:135])


def test_gradients_are_those_of_the_documents_alone(make_model, make_ids):
    model, ids = make_model(), packed(make_ids)
    weight = torch.randn(4, WIDTH, 1, 1)
    real = torch.zeros(4, WIDTH, 1, 1)
    for row, first, length in places():
        real[row, first : first + length] = 1
    (model.streams(ids, documents=ROWS) * weight * real).mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    scale = 1 / (4 * WIDTH * model.config.hc_mult * model.config.hidden_size)
    for row, first, length in places():
        part = slice(first, first + length)
        streams = model.streams(ids[row : row + 1, part])
        ((streams * weight[row, part]).sum() * scale).backward()
    for name, parameter in model.named_parameters():
        if name in found:
            error = (found[name] - parameter.grad).abs().max()
            assert error <= 1e-4 * parameter.grad.abs().max() + 1e-9, name


@pytest.mark.parametrize("first", [0, 1, 37, 140])
def test_columns_of_a_span_that_begins_later(first):
    """Masks, entries and blocks of the columns from `first` on are those of whole rows."""
    n, window = WIDTH - first, 16
    whole = DocumentSpan(ROWS, WIDTH, window, "cpu", [])
    part = DocumentSpan(ROWS, n, window, "cpu", [], first)
    assert torch.equal(part.positions, whole.positions[:, first:])
    seen = torch.zeros(4, WIDTH, WIDTH, dtype=torch.bool)
    for span, shift in ((whole, 0), (part, first)):
        found = torch.zeros_like(seen)
        for block in span.query_blocks:
            key = block.keys.start + shift - span.previous
            rows = slice(shift + block.first, shift + block.last)
            found[:, rows, key : key + block.mask.shape[2]] = block.mask
        assert torch.equal(found[:, first:], seen[:, first:]) or not shift
        seen = found
    for ratio in (4, 128):
        assert part.total(ratio) == whole.total(ratio)
        ends, ours = whole._entries_of(ratio), part._entries_of(ratio)
        for row in range(4):
            every = ends.ends[row][: ends.high[row, -1]]
            assert torch.equal(ours.ends[row][: (every >= first).sum()], every[every >= first])
        for overlaps in (False, True):
            rows = part.block_rows(ratio, overlaps=overlaps)
            before = part.before(ratio, overlaps=overlaps)
            assert ((rows >= 0) & (rows < before + n)).all()


def test_what_cannot_be_is_refused(make_model, make_ids):
    model, ids = make_model(), make_ids(2, 20)
    with pytest.raises(ValueError, match="at most 20 tokens"):
        model.streams(ids, documents=[[10, 11], [20]])
    with pytest.raises(ValueError, match="2 rows"):
        model.streams(ids, documents=[[20]])
    with pytest.raises(ValueError, match=r"\[3, 0\]: each must be at least 1"):
        model.streams(ids, documents=[[3, 0], [20]])
    with pytest.raises(ValueError, match="for training"):
        model.streams(ids, lengths=[20, 20], documents=[[20], [20]])
    with pytest.raises(ValueError, match="for training"):
        model.streams(ids, model.new_cache(2), documents=[[20], [20]])
