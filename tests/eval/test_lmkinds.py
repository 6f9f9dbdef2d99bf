"""Each kind of lm-eval's tasks: our table has what its own runner makes of the same replies."""

import json

import pytest
from eval.lmtasks import GROUPS, KINDS, REFUSED, ROWS, Writer, write

from dsv4.cost.price import Prices
from dsv4.eval.log import Log
from dsv4.eval.regrade import regrade
from dsv4.eval.report import rows_of, table
from dsv4.eval.run import Plan, run
from dsv4.eval.subject import Score, TooLongError, score, windows
from dsv4.eval.suites import suite_of

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("lm_eval.tasks")
FREE = Prices(0.0, 0.0, 0.0)
NAMES = [*KINDS, *GROUPS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("definitions")
    write(out)
    return str(out)


def tasks_of(names, folder):
    return suite_of([f"lm-eval:{name}" for name in names], include=folder).tasks


def asked(tasks, path, subject, temperature=None):
    log = Log(path, {"model": "writer"}, resume=False)
    run(Plan(tasks, concurrency=2, temperature=temperature), subject, log)
    log.close()
    return log


def rows(tasks, logged):
    return rows_of(tasks, logged, seed=0, prices=FREE, notes={})


def test_every_score_is_its_runners_own(folder, tmp_path, monkeypatch):
    """Filters, sums, targets, groups, examples: of a subject whose context is 34 letters."""
    from lm_eval.tasks import TaskManager

    from dsv4.eval.lmeval import SubjectLM

    manager = TaskManager(include_path=folder, include_defaults=False)
    names = [*KINDS, "own_even_odd"]
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # slow
    found = lm_eval.simple_evaluate(
        SubjectLM(Writer(context=34), 1),
        tasks=names,
        task_manager=manager,
        bootstrap_iters=0,
    )
    theirs = found["results"] | found["groups"]
    tasks = tasks_of(NAMES, folder)
    log = asked(tasks, tmp_path, Writer(context=34))
    mine = rows(tasks, log.rows)
    for name in names:
        scores = {
            tuple(key.split(",")): value
            for key, value in theirs[name].items()
            if "," in key and "_stderr" not in key
        }
        ours = [row for row in mine if row.task == f"lm-eval:{name}"]
        assert len(ours) == len(scores) and all(row.samples == len(ROWS) for row in ours)
        assert all(row.low <= row.score <= row.high for row in ours), ours
        for row in ours:
            scale = 1.0 if "perplexity" in row.metric or row.metric in RAW else 100.0
            right = scores[row.metric, row.reading or "none"]
            assert row.score == pytest.approx(scale * right, rel=1e-12), (name, row.metric)
    text = [row for row in mine if "text" in row.task or "even" in row.task or "all" in row.task]
    assert all(0 < row.score < 100 for row in text)
    even, whole = (row.score for row in text[1:])
    pooled = [row["score"] for key, row in log.rows.items() if key[0] == "lm-eval:own_all"]
    assert len(pooled) == len(ROWS) and whole == pytest.approx(100 * sum(pooled) / len(pooled))
    assert even != pytest.approx(whole)  # the group's tasks are unlike in size


RAW = ("bits_per_byte", "brier_score", "bleu", "chrf")


def test_each_filter_has_a_row(folder, tmp_path):
    """A log that is graded again has the same rows; replies that differ change both."""
    tasks = tasks_of(["own_filters"], folder)
    log = asked(tasks, tmp_path, Writer())
    before = rows(tasks, log.rows)
    strict, loose = before
    assert (strict.title, loose.title) == (
        "own_filters, strict-match",
        "own_filters, flexible-extract",
    )
    assert strict.score < loose.score and strict.metric == "exact_match"
    assert "own_filters, flexible-extract (exact_match)" in table(before, "writer")
    reasons = {
        row["reason"].removeprefix("cut, and graded as it is: ") for row in log.rows.values()
    }
    assert "strict-match exact_match 0, flexible-extract exact_match 1" in reasons
    settings = {"model": "writer"}
    assert regrade(log.path, settings, tasks) == (len(ROWS), 0)
    again = Log(tmp_path, settings, resume=True)
    assert rows(tasks, again.rows) == before
    again.close()
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    for row in lines[1:]:
        doc = ROWS[row["target"]["doc"]]
        row["text"] = f"the answer is {doc['choices'][doc['gold']]}"
    log.path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    regrade(log.path, settings, tasks)
    again = Log(tmp_path, settings, resume=True)
    assert [row.score for row in rows(tasks, again.rows)] == [100.0, 100.0]
    again.close()


def test_perplexities_are_no_verdicts(folder, tmp_path):
    tasks = tasks_of(["own_rolling"], folder)
    log = asked(tasks, tmp_path, Writer(context=34))
    assert {row["grade"] for row in log.rows.values()} == {"partial"}
    assert all(row["score"] > 1 and row["hash"] for row in log.rows.values())
    assert [row.metric for row in rows(tasks, log.rows)] == [
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
    ]


class Refuses(Writer):
    """Has no room for one question."""

    def generate(self, ask):
        if "What is 2 + 7?" in ask.prompt:
            raise TooLongError("no room")
        return super().generate(ask)

    def score_ids(self, context, continuation, *, bos=True):
        if "river" in "".join(map(chr, [*context, *continuation])):
            raise TooLongError("no room")
        return super().score_ids(context, continuation, bos=bos)


def test_what_failed_counts_where_a_zero_means_something(folder, tmp_path):
    """As wrong in a share of right ones, and not at all in a perplexity."""
    tasks = tasks_of(["own_filters"], folder)
    whole = rows(tasks, asked(tasks, tmp_path / "whole", Writer()).rows)
    log = asked(tasks, tmp_path / "less", Refuses())
    less = rows(tasks, log.rows)
    (failed,) = [row for row in log.rows.values() if "failed" in row]
    lost = dict(enumerate(ROWS))[failed["target"]["doc"]]
    assert lost["q"] == "What is 2 + 7?" and failed["score"] == 0.0
    for ours, before in zip(less, whole, strict=True):
        assert ours.samples == len(ROWS) and ours.shares["failed"] == 1 / len(ROWS)
        assert before.score - ours.score in (0.0, pytest.approx(100 / len(ROWS)))
    tasks = tasks_of(["own_rolling"], folder)
    log = asked(tasks, tmp_path / "rolling", Refuses(context=None))
    failed = [row for row in log.rows.values() if "failed" in row]
    assert {row["score"] for row in failed} == {None} and 0 < len(failed) < len(ROWS)
    rest = [row for row in log.rows.values() if "failed" not in row]
    assert rows(tasks, log.rows)[0].score == rows(tasks, {key_of(r): r for r in rest})[0].score


def key_of(row):
    return row["task"], row["effort"], row["sample"]


def test_how_it_generates_is_each_tasks_own(folder, tmp_path):
    subject = Writer()
    log = asked(tasks_of(["own_all"], folder), tmp_path / "own", subject)
    told = {(ask.stop, ask.max_tokens, ask.temperature) for ask in subject.asked}
    assert told == {(("1",), 5, 0.0), (("Q",), 40, 0.0)}
    assert {row["max_tokens"] for row in log.rows.values()} == {5, 40}
    subject = Writer()
    asked(tasks_of(["own_filters"], folder), tmp_path / "warm", subject, temperature=0.7)
    assert {ask.temperature for ask in subject.asked} == {0.7}
    assert {ask.stop for ask in subject.asked} == {("\n\n", "Q:")}  # an empty one would end all


def test_sampling_that_a_request_asks_for():
    from dsv4.eval.lmeval import _settings

    usual = {"max_tokens": 256, "temperature": 0.0, "top_p": 1.0, "stop": ()}
    assert _settings({}) == usual
    assert _settings({"until": None, "temperature": 0.5, "do_sample": False}) == usual
    assert _settings({"temperature": 0.5, "top_p": 0.9, "until": "x", "max_tokens": 7}) == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ("x",),
    }
    assert _settings({"do_sample": True})["temperature"] == 1.0
    assert _settings({"max_gen_toks": 3, "max_new_tokens": 9})["max_tokens"] == 3


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_subject_can_do_is_said(name, folder, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(ValueError, match=REFUSED[name][1]):
        tasks_of([name], folder)


@pytest.mark.parametrize("length", [0, 1, 6, 7, 8, 13, 14, 15, 40])
def test_windows_are_lm_evals(length):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids = list(range(100, 100 + length))
    theirs = [make_disjoint_window(one) for one in get_rolling_token_windows(ids, 0, 7, 1)]
    mine = list(windows(ids, 7)) if ids else []
    assert [([*before] or [0], list(rest)) for before, rest in mine] == theirs
    assert [one for _, rest in mine for one in rest] == ids


def test_a_long_text_alone_is_scored_in_windows():
    subject, calls = Writer(context=10), []

    def scored(before, ids, *, bos=True):
        calls.append((len(before), len(ids), bos))
        return Score(-1.5 * len(ids), len(ids) > 3, len(ids))

    subject.score_ids = scored
    assert score(subject, "", "a text of 19 signs.") == Score(-28.5, False, 19)
    assert calls == [(0, 8, True), (1, 8, False), (6, 3, False)]
    calls.clear()
    score(subject, "a text", " of 19 signs.")  # behind another it must fit
    assert calls == [(6, 13, True)]
