"""Rows of base models from one's own data: solved examples, the question, and what a row may be."""

import json

import pytest

from dsv4.eval.grade import Answer, verdict_of
from dsv4.eval.rows import DataError, asked, examples_of, right_choice, rows_of
from dsv4.eval.suites import suite_of


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def letters(word, count, subject="law"):
    return [
        {
            "question": f"{word} {n}?",
            "choices": ["p", "q", "r"],
            "answer": n % 3,
            "subject": subject,
        }
        for n in range(count)
    ]


def task(name, source):
    (found,) = suite_of([f"base/{name}"], data={f"base/{name}": str(source)}).tasks
    return found


@pytest.mark.parametrize("form", ["folder", "file"])
def test_letters_behind_examples_of_their_subject(tmp_path, form):
    test = write(tmp_path / "mmlu_test.jsonl", letters("law", 2) + letters("art", 2, "art"))
    write(tmp_path / "mmlu_dev.jsonl", letters("old", 6) + letters("new", 5, "art"))
    found = task("mmlu_redux", tmp_path if form == "folder" else test)
    samples = list(found.samples(0))
    assert (found.shots, found.grader, found.chance) == (5, "likeliest", 1 / 3)
    assert len(samples) == 4 and [s.target for s in samples] == [0, 1, 0, 1]
    first, last = samples[0].pairs[0][0], samples[3].pairs[0][0]
    assert first.count("Answer:") == 6 and first.startswith("Question: old 0?\nA. p\nB. q\nC. r\n")
    assert first.endswith("Question: law 0?\nA. p\nB. q\nC. r\nAnswer:") and "old 5" not in first
    assert last.count("new ") == 5 and "old" not in last and "Answer: B\n\n" in last
    assert [text for _, text in samples[0].pairs] == [" A", " B", " C"]
    assert [s.hash for s in samples] == [s.hash for s in found.samples(7)]
    write(tmp_path / "mmlu_dev.jsonl", letters("odd", 6))
    assert {s.hash for s in task("mmlu_redux", test).samples(0)} != {s.hash for s in samples}


def test_texts_that_go_on(tmp_path):
    train = [{"question": f"{n} + 1?", "golden": n + 1, "grade": 1} for n in range(5)]
    write(tmp_path / "data" / "train-0000.jsonl", train)
    write(tmp_path / "data" / "test-0000.jsonl", [{"question": "8 + 1?", "golden": 9}])
    found = task("cmath", tmp_path)
    (sample,) = found.samples(0)
    assert sample.prompt == (
        "Question: 0 + 1?\nAnswer: 1\n\nQuestion: 1 + 1?\nAnswer: 2\n\n"
        "Question: 2 + 1?\nAnswer: 3\n\nQuestion: 8 + 1?\nAnswer:"
    )
    assert (found.grader, found.stop, found.temperature) == ("number", ("\n",), 0.0)
    assert found.chance is None
    for said, grade in ((" 9", "right"), (" 10", "wrong"), (" 9 or 10", "unparsed")):
        assert verdict_of(found.grader, sample.target, Answer(said)).grade == grade


def test_without_a_split_of_examples(tmp_path):
    """The last rows are shown and left out; nothing is both shown and asked."""
    rows = [{"problem": f"Who is {n}?", "answer": [f"N{n}", f"M{n}"]} for n in range(30)]
    found = task("simple_qa_verified", write(tmp_path / "questions.jsonl", rows))
    every = list(found.samples(0))
    samples = [sample for sample in every if not sample.left_out]
    assert {s.left_out for s in every[5:]} == {"is an example"} and len(every) == 30
    assert len(samples) == 5 and samples[0].prompt.count("Answer:") == 26
    assert "Who is 5?\nAnswer: N5\n" in samples[0].prompt and samples[4].target == ["N4", "M4"]
    assert not any("Who is 5?" in s.prompt.rpartition("Question:")[2] for s in samples)
    only = write(tmp_path / "only" / "validation.jsonl", rows)
    assert examples_of(str(only.parent)) == [] and len(list(rows_of(str(only.parent)))) == 30


def test_an_example_that_is_the_question_is_not_shown(tmp_path):
    test = write(tmp_path / "test.jsonl", letters("same", 1))
    write(tmp_path / "train.jsonl", letters("same", 6))
    (sample,) = task("mmlu_redux", test).samples(0)
    assert sample.pairs[0][0].count("same 0?") == 1 and sample.pairs[0][0].count("Answer:") == 6


@pytest.mark.parametrize(
    ("row", "choices", "place"),
    [
        ({"question": "?", "choices": [3, 4, 5], "answer": 4}, ["3", "4", "5"], 1),
        ({"question": "?", "choices": {"text": ["x", "y"]}, "answer": "y"}, ["x", "y"], 1),
        ({"Question": "?", "A": 1, "B": 2, "C": 3, "D": 4, "Answer": "C"}, ["1", "2", "3", "4"], 2),
        ({"question": "?", "options": ["x", "y"], "answer_letter": "B"}, ["x", "y"], 1),
    ],
)
def test_forms_of_choices(tmp_path, row, choices, place):
    (found,) = rows_of(str(write(tmp_path / "rows.jsonl", [row])))
    assert found["choices"] == choices
    assert right_choice(asked(found, "0")[1], found["choices"], "0") == place


def test_gpqas_answers_in_an_order_of_their_own(tmp_path):
    wrong = {f"Incorrect Answer {n}": f"no {n}" for n in (1, 2, 3)}
    rows = [{"Question": f"Q{n}", "Correct Answer": "yes"} | wrong for n in range(40)]
    found = list(rows_of(str(write(tmp_path / "rows.jsonl", rows))))
    places = [right_choice(row["answer"], row["choices"], "0") for row in found]
    assert set(places) == {0, 1, 2, 3} and all(
        row["choices"][place] == "yes" for row, place in zip(found, places, strict=True)
    )
    assert found == list(rows_of(str(tmp_path / "rows.jsonl")))


def test_lines_that_hold_other_line_ends(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a\u2028b\x85c", "answer": "x"}\n', encoding="utf-8")
    assert [row["question"] for row in rows_of(str(path))] == ["a\u2028b\x85c"]


def test_folders_without_questions(tmp_path):
    write(tmp_path / "train.jsonl", letters("x", 3))
    with pytest.raises(DataError, match="holds no test or validation"):
        list(rows_of(str(tmp_path)))
