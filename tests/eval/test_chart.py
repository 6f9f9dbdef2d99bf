"""The bars: shares beside the published ones, and what is no share on axes of its own."""

from dataclasses import replace

import pytest

from dsv4.cost.price import Prices
from dsv4.eval.report import rows_of
from dsv4.eval.task import Reading, Task

figure = pytest.importorskip("matplotlib.figure")


def read(rows):
    return [
        Reading("strict", "em", [0.0, 1.0]),
        Reading("loose", "em", [1.0, 1.0], published=False),
        Reading("", "perplexity", [20.0], scale=1.0, published=False),
    ]


def made():
    task = Task("t", "T", lambda seed: (), "exact", published={"V4": 60.0}, readings=read)
    row = {"sample": "1", "score": 1.0, "grade": "right", "hash": ""}
    logged = {("t", "none", "1"): row}
    return rows_of([task], logged, seed=0, prices=Prices(0, 0, 0), notes={})


def test_bars(tmp_path, monkeypatch):
    from dsv4.eval.chart import draw

    kept, saved = [], figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), saved(self, *a, **k))
    )
    strict, loose, other = made()
    assert (strict.published, loose.published, other.digits) == ({"V4": 60.0}, {}, 3)
    twin = replace(loose, title=strict.title, metric="f1", low=99.0, high=99.5)  # not its own
    draw(tmp_path / "bars.png", [strict, loose, twin, other], "ours")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    left, right = kept[0].axes
    labels = [[text.get_text() for text in axes.get_xticklabels()] for axes in (left, right)]
    assert labels == [["T, strict\nem", "T, loose", "T, strict\nf1"], ["T"]]
    assert [bar.get_height() for bar in left.containers[1]] == [50.0, 100.0, 100.0]
    assert right.containers[1][0].get_height() == 20.0
    draw(tmp_path / "one.png", [strict], "ours")
    assert len(kept[1].axes) == 1
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(tmp_path / "none.png", [replace(strict, score=None)], "ours")
    assert not (tmp_path / "none.png").exists()
