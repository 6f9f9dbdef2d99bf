"""Every row of the release's tables has a task that says how it runs."""

import json
from pathlib import Path

import pytest
from eval.fake import Fake

from dsv4.cost.price import Prices
from dsv4.eval import packaged
from dsv4.eval.asking import graded
from dsv4.eval.catalog import entries
from dsv4.eval.dataset import sample_of
from dsv4.eval.grade import GRADERS, Answer, verdict_of
from dsv4.eval.log import Log, read
from dsv4.eval.report import rows_of, table
from dsv4.eval.rows import DataError
from dsv4.eval.run import Plan, run
from dsv4.eval.suites import suite_of


def test_rows():
    rows = entries().values()
    assert (
        sum(e.suite == "base" for e in rows) == 24
        and sum(e.suite == "instruct" for e in rows) == 22
    )
    for entry in rows:
        assert entry.how and entry.metric and (not entry.grader or entry.grader in GRADERS)
        assert (entry.runs == "here") == (entry.suite == "base" and entry.short in packaged.TASKS)
    mmlu = entries()["base/mmlu"]
    assert (mmlu.shots, mmlu.published["V4-Flash-Base"], mmlu.published["V4-Pro-Base"]) == (
        5,
        88.7,
        90.1,
    )


def test_columns_by_mode():
    entry = entries()["instruct/gpqa_diamond"]
    assert entry.columns("none") == {"V4-Flash": 71.2, "V4-Pro": 72.9}
    assert entry.columns("high") == {"V4-Flash": 87.4, "V4-Pro": 89.1}
    assert entry.columns("max")["V4-Pro"] == 90.1 and entry.columns("max")["GPT-5.4 xHigh"] == 93.0


def test_suites_leave_no_row_out():
    base, instruct, modes = (suite_of([name]) for name in ("base", "instruct", "modes"))
    assert len(base.tasks) == 24 and len(instruct.tasks) == 22 and len(modes.tasks) == 66
    assert {t.effort for t in modes.tasks} == {"none", "high", "max"}
    assert set(base.notes) == {t.name for t in base.tasks} - {f"base/{n}" for n in packaged.TASKS}
    assert len(instruct.notes) == 22


def test_who_reasons_has_the_window():
    for effort, tokens in (("none", 64), ("high", None), ("max", None)):
        (task,) = suite_of(["arithmetic_1"], effort=effort).tasks
        assert (task.effort, task.max_tokens) == (effort, tokens)
    assert all(t.max_tokens for t in suite_of(["smoke"], effort="max").tasks)


def test_names():
    assert suite_of(["hellaswag"]).tasks[0].name == "base/hellaswag"
    with pytest.raises(ValueError, match="instruct/mmlu_pro"):
        suite_of(["mmlu_pro"])
    with pytest.raises(ValueError, match="no task 'hella'"):
        suite_of(["hella"])
    with pytest.raises(ValueError, match="no such task is asked for"):
        suite_of(["copy"], data={"apex": __file__})
    for wrong, near in (("copyy", "copy"), ("smokey", "smoke"), ("gpqa_dimond", "gpqa_diamond")):
        with pytest.raises(ValueError, match=rf"choose from .*\b{near}\b"):
            suite_of([wrong])
    for name in ("lm-eval:", "inspect:"):
        with pytest.raises(ValueError, match=f"{name}NAME"):
            suite_of([name])


@pytest.mark.parametrize("names", [["smoke", "copy"], ["copy", "smoke"]])
def test_a_task_that_is_named_beside_the_smoke_suite_is_whole(names):
    copies = [task for task in suite_of(names).tasks if task.name == "copy"]
    (alone,) = suite_of(["copy"]).tasks
    assert len(copies) == 1 and len(suite_of(names).tasks) == 7
    assert list(copies[0].samples(0)) == list(alone.samples(0))


def test_lm_eval_knows_the_names():
    tasks = pytest.importorskip("lm_eval.tasks")
    names = {name for e in entries().values() for name in e.lm_eval}
    folders = [folder_of(Path(tasks.__file__).parent, name) for name in names]
    manager = tasks.TaskManager(include_path=folders, include_defaults=False)
    assert names <= set(manager.all_tasks)


def folder_of(root, name):
    """Where it is defined: reading all that lm-eval has takes long."""
    return str(root / name) if (root / name).is_dir() else folder_of(root, name[:-1])


# ---- files ---------------------------------------------------------------------------------------


def given(tmp_path, *rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_a_file_of_problems(tmp_path):
    source = given(
        tmp_path, {"problem": "1 + 1?", "answer": 2}, {"problem": "2 + 2?", "answer": "4"}
    )
    for effort, word in (("none", "step by step"), ("max", "rigorous proof")):
        (task,) = suite_of(["apex"], effort=effort, data={"apex": source}).tasks
        samples = list(task.samples(0))
        assert (
            word in samples[0].prompt[0]["content"]
            and "\\boxed{}" in samples[0].prompt[0]["content"]
        )
        assert [s.target for s in samples] == ["2", "4"] and task.effort == effort
        assert verdict_of(task.grader, "2", Answer("\\boxed{2}")).grade == "right"
        assert task.max_tokens is None and task.temperature == 1.0


def test_a_file_of_choices(tmp_path):
    rows = [
        {"question": "Q?", "choices": ["x", "y"], "answer": 1},
        {"question": "Q?", "choices": ["x", "y"], "answer": "x"},
        {"question": "Q?", "choices": ["x", "y"], "answer": "B"},
    ]
    (task,) = suite_of(["gpqa_diamond"], data={"gpqa_diamond": given(tmp_path, *rows)}).tasks
    samples = list(task.samples(0))
    assert [s.target for s in samples] == ["B", "A", "B"] and task.chance == 0.5
    assert "A) x\nB) y" in samples[0].prompt[0]["content"]


def test_pictures_are_left_out_and_counted(tmp_path):
    rows = [
        {"question": f"{n} + 1?", "answer": n + 1, "image": "x" * (n % 3 == 0)} for n in range(8)
    ]
    suite = suite_of(["hle"], data={"hle": given(tmp_path, *rows)}, judged=True)
    for limit, asked, left in ((None, 5, 3), (2, 2, 1)):
        log = Log(tmp_path / f"{limit}", {"model": "fake"}, resume=False)
        run(Plan(suite.tasks, limit), Fake(context=1 << 20), log)
        log.close()
        _, logged, _ = read(log.path)
        assert all(graded(row) == row for row in logged.values())
        (row,) = rows_of(suite.tasks, logged, seed=0, prices=Prices(0, 0, 0), notes={})
        assert (row.samples, row.left_out) == (asked, {"has a picture": left})
        assert f"| {asked}; {left} left out: has a picture |" in table([row], "fake")
    alone = suite_of(["hle"], data={"hle": given(tmp_path, rows[0])}, judged=True)
    log = Log(tmp_path / "alone", {"model": "fake"}, resume=False)
    run(Plan(alone.tasks), Fake(), log)
    (row,) = rows_of(alone.tasks, log.rows, seed=0, prices=Prices(0, 0, 0), notes={})
    said = table([row], "fake")
    assert "not run: all were left out; 1 left out: has a picture" in said and not row.samples


def test_mrcr_as_it_is_published():
    talk = [{"role": "user", "content": "Write"}]
    row = {"prompt": json.dumps(talk), "answer": "k3a poem", "random_string_to_prepend": "k3"}
    sample = sample_of(row, "0", "mrcr", "mrcr_1m", "none")
    assert sample.prompt == talk and sample.target == {"code": "k3", "text": "a poem"}


@pytest.mark.parametrize(
    "rows", [[], [{"text": "x"}], [{"question": "Q", "choices": ["x"], "answer": "z"}]]
)
def test_files_that_are_none(tmp_path, rows):
    with pytest.raises(DataError):
        (task,) = suite_of(["gpqa_diamond"], data={"gpqa_diamond": given(tmp_path, *rows)}).tasks
        list(task.samples(0))
