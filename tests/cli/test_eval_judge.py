"""`dsv4 eval --judge` and its agents, as a user runs them."""

import json

import pytest
from cli.test_eval import run
from eval.stub import Stub, judging

SUITE = ["--suite", "simpleqa_verified"]


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text(
        '{"problem": "Who?", "answer": "Anna"}\n{"problem": "Where?", "answer": "Rome"}\n'
    )
    return [*SUITE, "--data", f"simpleqa_verified={file}"]


@pytest.fixture
def stub():
    with judging(Stub(lambda given: '{"reason": "", "verdict": "correct"}')) as server:
        yield server


def rows(out):
    return json.loads((out / "results.json").read_text())


def test_a_judged_run_and_its_verdicts_again(data, stub, tmp_path):
    out = tmp_path / "out"
    said = run("nano", *data, "--judge", stub.url, "--out", out)
    assert said.exit_code == 0, said.output
    (row,) = rows(out)
    assert row["score"] == 100 and row["judge"].startswith("stub ") and row["tokens"]["judge"] == 36
    table, asked = (out / "table.md").read_text(), len(stub.bodies)
    for more in ("--resume", "--regrade"):
        judge = ["--judge", stub.url] if more == "--resume" else []
        said = run("nano", *data, *judge, "--out", out, more)
        assert said.exit_code == 0 and (out / "table.md").read_text() == table, said.output
    assert len(stub.bodies) == asked
    texts = [
        json.loads(one)["text"] for one in (out / "samples.jsonl").read_text().splitlines()[1:]
    ]
    stub.says = lambda given: '{"reason": "", "verdict": "not_attempted"}'
    said = run("nano", "--regrade", "--judge", stub.url, "--out", out, "--plot", tmp_path / "a.png")
    assert said.exit_code == 0 and "2 verdicts changed" in said.output
    assert rows(out)[0]["score"] == 0 and rows(out)[0]["shares"]["refused"] == 1
    assert len(stub.bodies) == asked + 2
    again = (out / "samples.jsonl").read_text().splitlines()[1:]
    assert sorted(json.loads(one)["text"] for one in again) == sorted(texts)


def test_a_judge_that_is_away(data, stub, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run("nano", *data, "--judge", stub.url, "--out", whole).exit_code == 0
    stub.down = True
    for more, words in (([], "the judge: http"), (["--resume"], "is as it was, since the judge")):
        said = run("nano", *data, "--judge", stub.url, "--out", out, *more)
        assert said.exit_code == 2 and words in said.output and "closed" in said.output, said.output
        assert (out / "samples.jsonl").read_text().count("account is closed") >= 1
    stub.down = False
    said = run("nano", *data, "--judge", stub.url, "--out", out, "--resume")
    assert said.exit_code == 0, said.output
    assert (out / "table.md").read_text() == (whole / "table.md").read_text()


def test_no_verdict_at_all(data, stub, tmp_path):
    stub.says = lambda given: "CORRECT"
    said = run("nano", *data, "--judge", stub.url, "--out", tmp_path / "out")
    assert said.exit_code == 0 and "no score: the judge gave no verdict" in said.output
    assert rows(tmp_path / "out")[0]["shares"]["unjudged"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "instruct/simpleqa_verified needs a judge (--judge URL)"),
        (["--judge", "http://127.0.0.1:9"], "cannot be reached"),
        (["--judge", "no-such-checkpoint"], "no-such-checkpoint"),
        (["--judge", "nano", "--judge-model", "x"], "leave out --judge-model"),
        (["--judge", "nano", "--tools", "x"], "FILE.py:NAME"),
    ],
)
def test_judges_that_are_none(data, words, message, tmp_path):
    said = run("nano", *data, *words, "--out", tmp_path / "out")
    assert said.exit_code == 2 and message in said.output, said.output
    assert len(said.output.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_name_without_a_judge(tmp_path):
    said = run("nano", "--suite", "copy", "--judge-model", "x", "--out", tmp_path / "out")
    assert said.exit_code == 2 and "no judge is named by --judge" in said.output


def test_the_list_names_judges_and_tools():
    lines = {line.split()[0]: line for line in run("--list").stdout.splitlines()}
    assert "a judge (--judge URL)" in lines["instruct/simpleqa_verified"]
    assert "--tools" in lines["instruct/browsecomp"] and "a judge" in lines["instruct/browsecomp"]
    assert "harbor run" in lines["instruct/terminal_bench_2_0"]
    assert "inspect eval inspect_evals/swe_bench" in lines["instruct/swe_verified"]
    for name in ("notes_2", "ledger", "shelves"):
        assert "runs here: generated" in lines[name]


def test_another_judge_goes_on_with_no_log(data, stub, tmp_path):
    out = tmp_path / "out"
    assert run("nano", *data, "--judge", stub.url, "--out", out, "--limit", 1).exit_code == 0
    said = run("nano", *data, "--judge", "nano", "--out", out, "--limit", 1, "--resume")
    assert said.exit_code == 2 and "judge = 'stub', not 'nano'" in said.output
