"""Gold transcripts that are right, and mutations of each that are not (`transcripts`).

Every grader meets a changed number or word, the answer in the reasoning alone, a longer answer that
holds the right one, two answers, another language's digits or letters, damage, a cut, and replies
that play with it.
"""

import json
import math

import pytest
from eval.transcripts import CALL, GOLD, NOT, call

from dsv4.eval.grade import GRADERS, Answer, verdict_of
from dsv4.eval.grade.boxed import boxes, normal, same, value
from dsv4.eval.grade.overlap import f1
from dsv4.eval.subject import Score, read


@pytest.mark.parametrize(("grader", "target", "answer"), GOLD)
def test_right(grader, target, answer):
    verdict = verdict_of(grader, target, answer)
    assert (verdict.grade, verdict.score) == ("right", 1.0), verdict


@pytest.mark.parametrize(("grader", "target", "text", "grade"), NOT)
def test_mutated(grader, target, text, grade):
    verdict = verdict_of(grader, target, Answer(text))
    assert verdict.grade == grade and verdict.score < 1.0 and verdict.reason, verdict


@pytest.mark.parametrize(("grader", "target", "answer"), [g for g in GOLD if g[0] != "python"])
def test_what_is_cut_is_no_answer(grader, target, answer):
    cut = Answer(answer.text, answer.calls, "length")
    assert verdict_of(grader, target, cut)[:2] == ("cut", 0.0)
    declined = Answer(answer.text, answer.calls, "content_filter")
    assert verdict_of(grader, target, declined)[:2] == ("refused", 0.0)


@pytest.mark.parametrize(
    ("grader", "target", "answer"),
    [g for g in GOLD if g[2].text and g[0] not in ("python", "calls")],
)
def test_the_answer_in_the_reasoning_alone(grader, target, answer):
    text, reasoning = read(f"{answer.text}</think>Let me know if you need more.", "", "high")
    assert reasoning == answer.text
    assert verdict_of(grader, target, Answer(text)).score < 1.0


@pytest.mark.parametrize(
    "said",
    [
        [],
        [call(arguments='{"city": "Rome", "days": 4}')],
        [call(arguments='{"city": "Rome", "days": "3"}')],
        [call(arguments='{"city": "Rome", "days": 3, "unit": "C"}')],
        [call(arguments='{"city": "Rome", "days": 3')],
        [call(arguments='{"city": "Rome, Italy", "days": 3}')],
        [call(name="Weather")],
        [call(), call()],
        [call(arguments='{"city": "Paris", "city": "Rome", "days": 3}')],
        [call(arguments="[" * 100_000)],
    ],
)
def test_calls_that_are_others(said):
    text = json.dumps(CALL)  # in the text it is no call
    assert verdict_of("calls", CALL, Answer(text, said)).score == 0.0


def test_a_call_where_none_is_right():
    assert verdict_of("calls", [], Answer("", [call()])).grade == "wrong"


# ---- likelihoods ---------------------------------------------------------------------------------


def scored(*values, nbytes=None, greedy=False):
    scores = [Score(v, greedy, 2) for v in values]
    return Answer(scores=scores, nbytes=nbytes or [1] * len(values))


def test_the_likeliest():
    answer = scored(-4.0, -3.0, -5.0, nbytes=[8, 2, 20])
    assert [verdict_of("likeliest", n, answer).score for n in range(3)] == [0, 1, 0]
    assert [verdict_of("likeliest_normalised", n, answer).score for n in range(3)] == [0, 0, 1]
    tie = scored(-1.0, -1.0)
    assert verdict_of("likeliest", 0, tie).score == 1 and verdict_of("likeliest", 1, tie).score == 0


def test_greedy_and_bits():
    assert verdict_of("greedy", 0, scored(-1.0, greedy=True)).grade == "right"
    assert verdict_of("greedy", 0, scored(-1.0)).grade == "wrong"
    found = verdict_of("bits", 0, scored(-8 * math.log(2), nbytes=[4]))
    assert found.score == pytest.approx(2.0)


# ---- parts ---------------------------------------------------------------------------------------


def test_boxes():
    assert boxes(r"\boxed{\frac{1}{2}} and \boxed{x} and \boxed{") == [r"\frac{1}{2}", "x"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("-1/2", "-1/2"), ("1,234.5", "2469/2"), ("12,34", "None"), ("٣", "None"), ("1/0", "None")],
)
def test_values(text, found):
    assert str(value(text)) == found


def test_normal_forms():
    assert normal(r"\left( 1, 2 \right)") == normal("(1,2)")
    assert normal(r"x = \tfrac{3}{4}") == r"\frac{3}{4}"
    assert not same("(1,2)", "(2,1)")


def test_sympy_knows_more():
    pytest.importorskip("math_verify")
    assert same(r"\sqrt{8}", r"2\sqrt{2}") and same("(x+1)^2", "x^2+2x+1")
    assert not same(r"\sqrt{8}", r"2\sqrt{3}")


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        (["red fox"], ["red fox"], 1.0),
        (["red fox"], ["fox"], 2 / 3),
        (["fox", "dog"], ["dog", "fox"], 1.0),
        (["fox"], ["fox", "dog"], 0.5),
        (["3 points"], ["4 points"], 0.0),
    ],
)
def test_f1(said, right, score):
    assert f1(said, right) == pytest.approx(score)


def test_every_grader_is_tried():
    tried = {name for name, *_ in GOLD} | {name for name, *_ in NOT}
    assert set(GRADERS) - tried == {
        "likeliest",
        "likeliest_normalised",
        "greedy",
        "bits",
        "lm_eval",
        "lm_eval_perplexity",
        "judged",
        "state",
        "inspect",
    }
