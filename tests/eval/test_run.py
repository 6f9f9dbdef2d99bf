"""Runs: the same from an engine and a URL, whenever they are killed, in whatever order they end."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from eval.fake import NAMES, SETTINGS, Fake, evaluate

from dsv4.cost.price import Prices
from dsv4.eval import report
from dsv4.eval.asking import ask, graded
from dsv4.eval.log import FILE, Log, LogError, key_of, read, samples
from dsv4.eval.run import Plan, run, too_small
from dsv4.eval.subject import SubjectError
from dsv4.eval.suites import SMOKE, suite_of

FREE = Prices(0.0, 0.0, 0.0)


def table(folder, names=NAMES):
    settings, logged, _ = read(Path(folder) / FILE)
    rows = report.rows_of(suite_of(names).tasks, logged, seed=0, prices=FREE, notes={})
    return report.table(rows, settings["model"])


def test_the_smoke_suite_is_the_same_behind_a_url(exact, inside, outside, tmp_path):
    told = []
    for name, subject in (("inside", inside), ("outside", outside)):
        log = Log(tmp_path / name, {"model": "nano"}, resume=False)
        run(Plan(suite_of(["smoke"]).tasks, 2, 0, 3), subject, log)
        log.close()
        told.append(log.rows)
    assert len(told[0]) == 2 * len(SMOKE)
    own = ("cached_tokens",)
    for key, row in told[0].items():
        left, right = ({k: v for k, v in r.items() if k not in own} for r in (row, told[1][key]))
        assert left == right
    assert table(tmp_path / "inside", ["smoke"]) == table(tmp_path / "outside", ["smoke"])


def test_killed_at_any_moment(tmp_path):
    evaluate(tmp_path / "whole", False)
    whole = table(tmp_path / "whole")
    folder = tmp_path / "killed"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    script = Path(__file__).with_name("fake.py")
    for least in (1, 9, 20):
        process = subprocess.Popen([sys.executable, str(script), str(folder)], env=env)
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            log = folder / FILE
            if log.exists() and log.read_bytes().count(b"\n") > least:
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(read(folder / FILE)[1]) >= least
    evaluate(folder, True)
    assert table(folder) == whole


def test_half_a_line_is_dropped(tmp_path):
    evaluate(tmp_path, False)
    whole, data = table(tmp_path), (tmp_path / FILE).read_bytes()
    for cut in (len(data) - 1, len(data) - 200, len(data) // 2, data.index(b"\n") + 1, 3, 0):
        (tmp_path / FILE).write_bytes(data[:cut])
        evaluate(tmp_path, True)
        assert table(tmp_path) == whole


def test_order_and_concurrency_are_nothing(tmp_path):
    evaluate(tmp_path / "one", False, concurrency=1)
    evaluate(tmp_path / "many", False, pause=0.003, concurrency=9)
    assert table(tmp_path / "one") == table(tmp_path / "many")


def test_one_writer_at_a_time(tmp_path):
    log = Log(tmp_path, SETTINGS, resume=False)
    with pytest.raises(LogError, match="another run is writing"):
        Log(tmp_path, SETTINGS, resume=True)
    log.close()
    Log(tmp_path, SETTINGS, resume=True).close()


def test_prompts_are_not_held(tmp_path):
    evaluate(tmp_path, False)
    _, logged, _ = read(tmp_path / FILE)
    assert all("prompt" not in row and "pairs" not in row for row in logged.values())
    whole = {key_of(row): row for row in samples(tmp_path / FILE)}
    assert whole.keys() == logged.keys()
    assert all(row.get("prompt") or row["pairs"] for row in whole.values())


def test_a_subject_that_is_lost(tmp_path):
    """What was under way is kept; going on ends with the same table."""

    class Lost(Fake):
        def generate(self, ask):
            if len(self.asked) == 5:
                raise SubjectError("gone")
            return super().generate(ask)

    log = Log(tmp_path / "lost", SETTINGS, resume=False)
    with pytest.raises(SubjectError, match="gone"):
        run(Plan(suite_of(NAMES).tasks, 12, 0, 3), Lost(), log)
    log.close()
    assert 5 <= len(log.rows) < 12
    evaluate(tmp_path / "lost", True)
    evaluate(tmp_path / "whole", False)
    assert table(tmp_path / "lost") == table(tmp_path / "whole")


def test_logs_that_are_others(tmp_path):
    evaluate(tmp_path, False)
    with pytest.raises(LogError, match="--resume"):
        Log(tmp_path, SETTINGS, resume=False)
    with pytest.raises(LogError, match="limit = 12, not 5"):
        Log(tmp_path, SETTINGS | {"limit": 5}, resume=True)
    (tmp_path / FILE).write_bytes(b'{"model": "x"}\n{"no": 1}\n')
    with pytest.raises(LogError, match="line 2"):
        Log(tmp_path, SETTINGS, resume=True)


def test_rows_say_how_they_came_about(tmp_path):
    evaluate(tmp_path, False)
    settings, logged, _ = read(tmp_path / FILE)
    assert settings == SETTINGS
    for row in logged.values():
        assert row["hash"] and row["reason"] and "target" in row and row["seed"] < 1 << 62
        assert row["grade"] == "cut" if row.get("finish_reason") == "length" else True
    prices = Prices(1.0, 10.0, 100.0)
    rows = report.rows_of(suite_of(NAMES).tasks, logged, seed=0, prices=prices, notes={})
    copy = rows[0]
    mine = [row for key, row in logged.items() if key[0] == "copy"]
    assert copy.samples == 12 and copy.tokens == {
        "prompt": 108,
        "cached": 36,
        "completion": 60,
        "judge": 0,
    }
    assert copy.cost == pytest.approx((36 * 1 + 72 * 10 + 60 * 100) / 1e6)
    assert copy.score == pytest.approx(100 * sum(row["score"] for row in mine) / 12)
    assert copy.low <= copy.score <= copy.high
    assert copy.shares["cut"] == sum(row["grade"] == "cut" for row in mine) / 12 > 0
    assert rows == report.rows_of(
        suite_of(NAMES).tasks, dict(reversed(logged.items())), seed=0, prices=prices, notes={}
    )


def test_grading_anew(tmp_path):
    evaluate(tmp_path, False)
    _, logged, _ = read(tmp_path / FILE)
    key = next(k for k, row in logged.items() if k[0] == "copy" and row["grade"] == "right")
    assert graded(logged[key]) == json.loads(json.dumps(logged[key]))
    assert graded(logged[key] | {"target": "another"})["grade"] == "wrong"


def test_contexts_that_are_too_small(tmp_path):
    small = Fake(context=2000)
    tasks = suite_of(["needle_4k", "copy"]).tasks
    assert "needs 4,096" in too_small(tasks[0], 2000) and not too_small(tasks[1], 2000)
    log = Log(tmp_path, {"model": "fake"}, resume=False)
    run(Plan(tasks, 2), small, log)
    assert {key[0] for key in log.rows} == {"copy"}
    notes = {"needle_4k": too_small(tasks[0], small.context)}
    rows = report.rows_of(tasks, log.rows, seed=0, prices=FREE, notes=notes)
    assert "not run: needs 4,096 tokens" in report.table(rows, "fake")


def test_windows_by_mode():
    task = suite_of(["copy"]).tasks[0]
    asked = {}
    for effort in ("none", "high", "max"):
        subject = Fake(context=1 << 20)
        sample = next(iter(task.samples(0)))
        ask(replace(task, max_tokens=None, effort=effort), subject, sample, 0)
        asked[effort] = subject.asked[0].max_tokens + subject.count(subject.asked[0])
        assert subject.asked[0].temperature == 1.0
    assert asked == {"none": 8 << 10, "high": 128 << 10, "max": 384 << 10}


@pytest.mark.parametrize(("grader", "worth"), [("exact", 0.0), ("bits", None)])
def test_a_failed_sample_is_never_worth_the_best_score(grader, worth):
    row = graded({"grader": grader, "target": 0, "failed": "the server left"})
    assert (row["grade"], row["score"]) == ("failed", worth)


def test_a_prompt_that_does_not_fit_failed(tmp_path):
    log = Log(tmp_path, {"model": "fake"}, resume=False)
    run(Plan(suite_of(["copy"]).tasks, 2), Fake(context=5), log)
    assert {row["grade"] for row in log.rows.values()} == {"failed"}
    assert all("too long" in row["reason"] for row in log.rows.values())
