"""Tasks of Inspect's over our subjects: its own scores, again from the log alone."""

import hashlib
from pathlib import Path

import pytest

from dsv4.cost.price import Prices
from dsv4.eval.log import FILE, Log, key_of, samples
from dsv4.eval.report import rows_of, table
from dsv4.eval.run import Plan, graded, run
from dsv4.eval.subject import Reply, SubjectError
from dsv4.eval.suites import suite_of

inspect_ai = pytest.importorskip("inspect_ai")
TASKS = Path(__file__).with_name("inspect_tasks.py")


class Subject:
    """Replies by what it is asked alone: a letter, a call and then its result, a number."""

    name, context = "subject", 1 << 20

    def __init__(self):
        self.asked = []

    def count(self, ask):
        return 100

    def generate(self, ask):
        self.asked.append(ask)
        text = repr([m["content"] for m in ask.prompt]).encode()
        number = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
        last = ask.prompt[-1]
        usage = (9, 0, 5)
        if "ANSWER" in last["content"]:
            return Reply(f"So.\nANSWER: {'ABC'[number % 3]}", "", (), "stop", *usage)
        if ask.tools and last["role"] != "tool":
            n = last["content"].split()[2]
            call = {"name": "double", "arguments": f'{{"x": {n}}}'}
            return Reply("", "hm", [call], "tool_calls", *usage)
        if last["role"] == "tool":
            return Reply(last["content"], "", (), "stop", *usage)
        a = int(last["content"].split()[2])
        said = str(2 * a + number % 2)
        return Reply(said, "", (), "length" if a == 3 else "stop", *usage)


def ours(name, folder, subject, **more):
    (task,) = suite_of([f"inspect:{TASKS}@{name}"]).tasks
    log = Log(folder, {"model": "subject"}, resume=False)
    run(Plan([task], concurrency=4, **more), subject, log)
    log.close()
    return {row["target"]["sample"]["id"]: row for row in samples(folder / FILE)}


@pytest.mark.parametrize("name", ["letters", "texts", "tools"])
def test_scores_are_inspects_own(name, tmp_path):
    mine = ours(name, tmp_path / "ours", Subject())
    model = inspect_ai.model.get_model("dsv4/subject", memoize=False, subject=Subject())
    (log,) = inspect_ai.eval(
        f"{TASKS}@{name}", model=model, display="none", log_dir=str(tmp_path / "theirs")
    )
    assert log.status == "success", log.error
    theirs = {str(s.id): next(iter(s.scores.values())).value for s in log.samples}
    assert {key: {1.0: "C", 0.0: "I"}[row["score"]] for key, row in mine.items()} == theirs
    assert set(theirs.values()) == ({"C"} if name == "tools" else {"C", "I"})


def test_what_chance_scores_is_not_said_to_be_nothing(tmp_path):
    (task,) = suite_of([f"inspect:{TASKS}@texts"]).tasks
    log = Log(tmp_path, {"model": "subject"}, resume=False)
    run(Plan([task]), Subject(), log)
    log.close()
    (row,) = rows_of([task], log.rows, seed=0, prices=Prices(0, 0, 0), notes={})
    assert row.chance is None and "| unknown |" in table([row], "subject")


def test_what_was_said_is_graded_again_and_nobody_asked(tmp_path):
    subject = Subject()
    for name in ("texts", "tools"):
        rows = ours(name, tmp_path / name, subject)
        count = len(subject.asked)
        for row in samples(tmp_path / name / FILE):
            assert graded(row) == row
        assert len(subject.asked) == count
        assert len({key_of(row) for row in rows.values()}) == len(rows)
    row = rows["1"]
    assert [bool(one["reply"]["calls"]) for one in row["talk"]] == [True, False]
    assert row["text"] == "2" and row["prompt_tokens"] == 18 and row["prompt"][0]["role"] == "user"


def test_a_changed_reply_changes_the_score(tmp_path):
    rows = ours("texts", tmp_path, Subject())
    right = next(row for row in rows.values() if row["grade"] == "right")
    for text, score in (("7", 0.0), (right["text"], 1.0), ("", 0.0)):
        talk = [right["talk"][0] | {"reply": right["talk"][0]["reply"] | {"text": text}}]
        assert graded(right | {"talk": talk})["score"] == score
    elsewhere = [right["talk"][0] | {"hash": "0"}]
    with pytest.raises(ValueError, match="run the task anew"):
        graded(right | {"talk": elsewhere})


def test_settings(tmp_path):
    subject = Subject()
    rows = ours("texts", tmp_path / "own", subject)
    assert {ask.temperature for ask in subject.asked} == {0.25}
    assert len({ask.seed for ask in subject.asked}) == len(rows)
    assert {ask.max_tokens for ask in subject.asked} == {8192 - 100}
    assert rows["3"]["grade"] == "cut"
    subject = Subject()
    ours("texts", tmp_path / "given", subject, temperature=0.5)
    assert {ask.temperature for ask in subject.asked} == {0.5}
    subject = Subject()
    ours("tools", tmp_path / "tools", subject)
    assert {ask.temperature for ask in subject.asked} == {1.0}
    assert {ask.max_tokens for ask in subject.asked} == {512 * 1024 - 100}


def test_what_cannot_be_run(tmp_path):
    for name, message in (
        (f"inspect:{TASKS}@contained", "needs a container"),
        (f"inspect:{TASKS}@nothing", "cannot load"),
        ("inspect:no_such_task", "cannot load no_such_task"),
    ):
        with pytest.raises(ValueError, match=message):
            suite_of([name])
    (row,) = ours("judged", tmp_path, Subject()).values()
    assert (row["grade"], row["score"]) == ("unjudged", None) and "asks a model" in row["reason"]


def test_a_subject_that_is_lost_in_a_conversation(tmp_path):
    class Lost(Subject):
        def generate(self, ask):
            if ask.prompt[-1]["role"] == "tool":
                raise SubjectError("gone")
            return super().generate(ask)

    with pytest.raises(SubjectError, match="gone"):
        ours("tools", tmp_path, Lost())


@pytest.mark.slow
def test_a_conversation_with_a_played_user(tmp_path):
    """tau-bench, whose solver takes every error as one of its own."""
    pytest.importorskip("inspect_evals")
    (task,) = suite_of(["tau2_airline"]).tasks

    class Agent(Subject):
        def generate(self, ask):
            self.asked.append(ask)
            return Reply("I cannot help. ###STOP###" if len(self.asked) > 4 else "Hello")

    subject = Agent()
    log = Log(tmp_path, {"model": "subject"}, resume=False)
    run(Plan([task], 1, concurrency=1), subject, log)
    log.close()
    (row,) = samples(tmp_path / FILE)
    assert graded(row) == row and len(row["talk"]) == len(subject.asked) == 5
    assert [bool(ask.tools) for ask in subject.asked] == [False, True, False, True, False]
