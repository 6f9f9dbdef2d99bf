"""Replies held to a grammar, on the packaged tokenizer: they are read, whatever the logits."""

import json
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import dsv4
from dsv4.engine.constraint import Constraints, allowed_ids, mask_all, word_count
from dsv4.engine.indent import WIDEST
from dsv4.engine.request import Job
from dsv4.engine.sampler import Row, choose, choose_runs
from dsv4.protocol import constants as c
from dsv4.protocol import parse_message, reply_grammar
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(Path(dsv4.__file__).parent / "nano")
VOCAB = TOKENIZER.largest_id + 1 + 70  # padded
EOS = TOKENIZER.token_id(c.EOS)
PROPERTIES = {
    "a": {"type": "string"},
    "n": {"type": "integer"},
    "e": {"enum": ["x", "y", 3]},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"type": "object", "properties": PROPERTIES, "required": ["n"]},
        },
    },
    {"type": "function", "function": {"name": "g"}},
]
NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.fixture(scope="module")
def constraints():
    return Constraints(TOKENIZER, VOCAB, [EOS])


def tag(form):
    return {"type": "structural_tag", "format": form}


def logits_of(seed, step):
    """Random, but inclined to what ends things."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    logits = torch.randn(1, VOCAB, generator=generator) * 2
    ends = [EOS, TOKENIZER.token_id(c.END_THINK), TOKENIZER.token_id(c.DSML)]
    logits[0, [*ends, *TOKENIZER.encode('</}]"')]] += 8
    return logits


def reply(constraint, seed, limit=400):
    row = Row(Job([0], Sampling(seed=seed), end_ids=[EOS]), constraint)
    for step in range(limit):
        (token,) = choose(logits_of(seed, step), [row])
        if token.id == EOS:
            return row.sampled
    return row.sampled


def allowed(constraint):
    words = torch.zeros(1, word_count(VOCAB), dtype=torch.int32)
    constraint.mask(words)
    return allowed_ids(words[0], VOCAB)


def accept(constraint, *ids):
    """Whether the ids come one after another; those before the first that may not are accepted."""
    for i in ids:
        if i not in allowed(constraint):
            return False
        constraint.accept(i)
    return True


@pytest.mark.parametrize("mode", ["chat", "thinking"])
@pytest.mark.parametrize("choice", ["none", "auto", "required", NAMED])
def test_random_replies_are_read_by_the_strict_parser(constraints, mode, choice):
    grammar = reply_grammar(TOOLS, choice, mode)
    ended = 0
    for seed in range(8):
        ids = reply(constraints.compile(grammar), seed)
        if ids[-1] != EOS:
            continue
        ended += 1
        message = parse_message(TOKENIZER.decode(ids), mode, tools=TOOLS)
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        assert calls or choice in ("none", "auto")
        assert choice != "none" or not calls
        for call in calls:
            given = json.loads(call["arguments"])
            assert call["name"] == "g" or (
                type(given["n"]) is int and set(given) <= set(PROPERTIES)
            )
            assert choice != NAMED or call["name"] == "g"
    assert ended >= 4


def test_a_forced_call_ends_by_itself(constraints):
    grammar = reply_grammar(TOOLS, NAMED, parallel_tool_calls=False)
    constraint = constraints.compile(grammar)
    row = Row(Job([0], Sampling(temperature=0)), constraint)
    flat = torch.zeros(1, VOCAB)
    flat[0, EOS] = -1000
    while not constraint.ended:
        (token,) = choose(flat, [row])
        assert len(row.sampled) < 100
    assert allowed(constraint) == [EOS]
    (token,) = choose(flat, [row])  # whatever the model would rather say
    assert token.id == EOS and constraint.closed
    with pytest.raises(ValueError, match="no token come"):
        allowed(constraint)


def test_control_tokens_come_only_where_the_grammar_spells_them(constraints):
    control = [i for i in range(VOCAB) if TOKENIZER.control_text(i) is not None]
    for form in (
        {"type": "any_text"},
        {"type": "any_text", "excludes": ["x"]},
        {"type": "regex", "pattern": "[^a]*"},
        {"type": "regex", "pattern": ".*"},
    ):
        ids = allowed(constraints.compile(tag(form)))
        assert [i for i in ids if i in control or i > TOKENIZER.largest_id] == [EOS], form
    string = constraints.compile(tag({"type": "json_schema", "json_schema": {"type": "string"}}))
    assert accept(string, *TOKENIZER.encode('"'))
    assert not set(control) & set(allowed(string))
    thinking = constraints.compile(reply_grammar(TOOLS, "auto", "thinking"))
    end, dsml = TOKENIZER.token_id(c.END_THINK), TOKENIZER.token_id(c.DSML)
    assert set(allowed(thinking)) & set(control) == {end}
    letters = TOKENIZER.encode("</think>")
    assert not accept(thinking, *letters)
    assert accept(thinking, end)
    assert set(allowed(thinking)) & set(control) == {EOS}
    assert accept(thinking, *TOKENIZER.encode("hi\n\n<"))
    assert set(allowed(thinking)) & set(control) == {EOS, dsml}


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_drafts_change_nothing(constraints, choice):
    grammar = reply_grammar(TOOLS, choice)
    for seed in range(4):
        expected = reply(constraints.compile(grammar), seed, 60)
        for hit in (0, 1, 2, 5):
            row = Row(Job([0], Sampling(seed=seed), end_ids=[EOS]), constraints.compile(grammar))
            while len(row.sampled) < len(expected):
                at = len(row.sampled)
                drafts = [*expected[at : at + hit], 77, VOCAB - 1]
                logits = torch.cat([logits_of(seed, at + n) for n in range(len(drafts) + 1)])
                (run,) = choose_runs(logits, [row], [drafts])
                assert len(run) >= min(hit + 1, len(expected) - at)
            assert row.sampled[: len(expected)] == expected


def test_ids_can_be_taken_back(constraints):
    constraint = constraints.compile(tag({"type": "regex", "pattern": "[a-z]{3}"}))
    before = allowed(constraint)
    ids = [*TOKENIZER.encode("abc"), EOS]
    assert accept(constraint, *ids) and constraint.closed
    constraint.rollback(1)
    assert constraint.ended and not constraint.closed
    constraint.rollback(len(ids) - 1)
    assert allowed(constraint) == before and not constraint.ended
    constraint.rollback(0)


def test_answers_follow_a_schema_and_an_expression(constraints):
    schema = {
        "type": "object",
        "properties": {
            "k": {"enum": ["p", "q"]},
            "n": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["k", "n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": schema}
    read = 0
    for seed in range(5):
        ids = reply(constraints.compile(reply_grammar([], content=form)), seed)
        if ids[-1] == EOS:
            value = json.loads(TOKENIZER.decode(ids[:-1]))
            assert value["k"] in ("p", "q") and all(type(n) is int for n in value["n"])
            assert set(value) == {"k", "n"}
            read += 1
        pattern = "(yes|no), [0-9]{2,4} (é|ü)+!"
        ids = reply(constraints.compile(tag({"type": "regex", "pattern": pattern})), seed)
        assert ids[-1] == EOS and re.fullmatch(pattern, TOKENIZER.decode(ids[:-1]))
    assert read >= 3


SPACED = {
    "mode": {"type": "json_schema", "json_schema": {"type": "object"}},
    "schema": {"type": "json_schema", "json_schema": {"properties": {"a": {"type": "array"}}}},
    "tag": {
        "type": "triggered_tags",
        "triggers": ["<j>"],
        "tags": [
            {
                "type": "tag",
                "begin": "<j>",
                "content": {"type": "json_schema", "json_schema": {"type": "object"}},
                "end": "</j>",
            }
        ],
    },
}


@pytest.mark.parametrize("kind", SPACED)
def test_white_space_ends(constraints, kind):
    """A model that likes nothing better is brought to go on: before a value, and behind it."""
    blanks = [TOKENIZER.encode(text)[0] for text in (" ", "\n", "  ", "\t")]
    begun = "<j>" if kind == "tag" else ""
    for text in ("{", '{"a":', '{"a": [1', '{"a": [1, 2]'):
        constraint = constraints.compile(tag(SPACED[kind]))
        assert accept(constraint, *TOKENIZER.encode(begun + text))
        count = 0
        while count <= WIDEST and any(accept(constraint, blank) for blank in blanks):
            count += 1
        assert 8 <= count <= WIDEST and allowed(constraint)


@pytest.mark.parametrize("indent", [None, 1, 2, 4, "\t"])
def test_printed_json_may_be_pretty(constraints, indent):
    value = {"name": "x", "list": [1, [], {}], "none": None}
    for _ in range(8):
        value = {"inner": [value]}
    for text in (json.dumps(value, indent=indent), json.dumps(value, separators=(",", ":"))):
        constraint = constraints.compile(tag(SPACED["mode"]))
        assert accept(constraint, *TOKENIZER.encode(text), EOS)


@pytest.mark.parametrize("indent", [None, 2, 4])
def test_json_of_a_schema_has_the_white_space_of_its_own_depth(constraints, indent):
    point = {"type": "object", "properties": {"x": {"type": "integer"}}}
    listed = {"type": "array", "items": {"$ref": "#/$defs/p"}}
    schema = {"type": "object", "properties": {"all": listed}, "$defs": {"p": point}}
    form = tag({"type": "json_schema", "json_schema": schema})
    text = json.dumps({"all": [{"x": 1}, {"x": 2}]}, indent=indent)
    assert accept(constraints.compile(form), *TOKENIZER.encode(text), EOS)
    constraint = constraints.compile(form)
    assert accept(constraint, *TOKENIZER.encode("{"))
    (blank,) = TOKENIZER.encode(" ")
    assert accept(constraint, *[blank] * 14) and not accept(constraint, blank)


def test_the_json_of_a_call_has_white_space_that_ends(constraints):
    tool = {"type": "object", "properties": {"v": {"type": "object"}}, "required": ["v"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": tool}}]
    constraint = constraints.compile(reply_grammar(tools, "required"))
    head = f'\n\n<{c.DSML}tool_calls>\n<{c.DSML}invoke name="f">\n'
    head += f'<{c.DSML}parameter name="v" string="false">{{"a": 1'
    assert accept(constraint, *TOKENIZER.encode(head, special=True))
    (blank,) = TOKENIZER.encode(" ")
    assert accept(constraint, *[blank] * WIDEST) and not accept(constraint, blank)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"type": "regex", "pattern": "(a"}, "parenthesis"),
        ({"type": "regex", "pattern": r"(a)\1"}, "(?i)backreference"),
        ({"type": "json_schema", "json_schema": {"type": "nope"}}, "nope"),
        ({"type": "json_schema", "json_schema": {"$ref": "#/none"}}, "none"),
        ({"type": "nothing"}, "nothing"),
        ({"type": "const_string", "value": "x" * 300_000}, "bytes of JSON"),
        ({"type": "regex", "pattern": "(" * 9999 + "a" + ")" * 9999}, "deep"),
        ({"type": "const_string", "value": float("nan")}, "JSON"),
        ({"type": "const_string", "value": "\ud800"}, "surrogate"),
        (None, "grammar"),
    ],
)
def test_bad_grammars_are_told_in_one_line(constraints, form, words):
    with pytest.raises(ValueError, match=words) as raised:
        constraints.compile(tag(form))
    assert "\n" not in str(raised.value) and ".cc" not in str(raised.value)


def test_a_wrong_id_is_told_at_the_next_mask(constraints):
    constraint = constraints.compile(tag({"type": "regex", "pattern": "[0-9]+"}))
    constraint.accept(TOKENIZER.encode("a")[0])
    with pytest.raises(ValueError, match="does not let token"):
        allowed(constraint)


AMBIGUOUS = {"type": "regex", "pattern": "((a{0,100}){0,100}){0,100}"}


def test_an_ambiguous_expression_fails_its_job_alone(monkeypatch):
    monkeypatch.setattr("dsv4.engine.constraint.FIRST", 0.2)
    monkeypatch.setattr("dsv4.engine.constraint.EACH", 0.0)
    own = Constraints(TOKENIZER, VOCAB, [EOS])
    constraint = own.compile(tag(AMBIGUOUS))
    bad, good = Row(Job([0]), constraint), Row(Job([0], Sampling(temperature=0)))
    logits = torch.zeros(2, VOCAB)
    logits[:, TOKENIZER.encode("aa")] = 50
    for _ in range(40):
        first, second = choose(logits, [bad, good])
        assert second.id == TOKENIZER.encode("aa")[0]
        if isinstance(first, Exception):
            break
    assert "less ambiguous" in str(first)
    constraint.rollback(3)
    with pytest.raises(ValueError, match="less ambiguous"):  # it stays so
        allowed(constraint)
    assert allowed(own.compile(tag({"type": "regex", "pattern": "b"})))


def test_masks_of_many_replies_are_those_of_each(constraints):
    forms = [{"type": "regex", "pattern": p} for p in ("[0-9]+", "ab", "c*d")]
    many = [constraints.compile(tag(form)) for form in forms]
    wrong = constraints.compile(tag(forms[0]))
    wrong.accept(TOKENIZER.encode("a")[0])
    words = torch.full((9, word_count(VOCAB)), -1, dtype=torch.int32)
    failed = mask_all([many[0], wrong, *many[1:]], [7, 2, 0, 4], words)
    assert list(failed) == [2] and "does not let token" in str(failed[2])
    for constraint, row in zip(many, (7, 0, 4), strict=True):
        assert allowed_ids(words[row], VOCAB) == allowed(constraint)
    assert torch.equal(words[1], torch.full_like(words[1], -1))  # nobody's row


@pytest.mark.parametrize("pause", [0.0, 10.0])
def test_one_that_is_stuck_fails_alone(monkeypatch, pause):
    """Those before it and behind it are masked; a thread that was left behind disturbs nobody."""
    monkeypatch.setattr("dsv4.engine.constraint.FIRST", 0.1)
    monkeypatch.setattr("dsv4.engine.constraint.PAUSE", pause)
    own = Constraints(TOKENIZER, VOCAB, [EOS])
    some = [own.compile(tag({"type": "regex", "pattern": "[0-9]+"})) for _ in range(4)]
    go_on, match = threading.Event(), some[1].match
    monkeypatch.setattr(some[1], "match", lambda words: go_on.wait(60) and match(words))
    words = torch.zeros(4, word_count(VOCAB), dtype=torch.int32)
    failed = mask_all(some, [0, 1, 2, 3], words)
    go_on.set()
    assert list(failed) == [1] and "less ambiguous" in str(failed[1])
    digits = allowed(own.compile(tag({"type": "regex", "pattern": "[0-9]+"})))
    for _ in range(2):
        for row in (0, 2, 3):
            assert allowed_ids(words[row], VOCAB) == digits
        assert list(mask_all(some, [0, 1, 2, 3], words)) == [1]  # it stays so


def test_a_slow_compilation_is_given_up_and_blocks_nobody(monkeypatch):
    own = Constraints(TOKENIZER, VOCAB, [EOS])
    own.compile(tag({"type": "regex", "pattern": "a"}))
    monkeypatch.setattr("dsv4.engine.constraint.COMPILING", 0.05)
    wide = {"type": "regex", "pattern": "|".join(f"w{n}.*" for n in range(6000))}
    for _ in range(2):  # the second time it is known at once
        with pytest.raises(ValueError, match="not compiled within"):
            own.compile(tag(wide))
    monkeypatch.setattr("dsv4.engine.constraint.COMPILING", 60.0)
    assert allowed(own.compile(tag({"type": "const_string", "value": "b"})))
    monkeypatch.setattr(own._patience, "left", 1)
    with pytest.raises(ValueError, match="try later"):
        own.compile(tag({"type": "const_string", "value": "c"}))
    assert allowed(own.compile(tag({"type": "regex", "pattern": "a"})))  # known


def test_what_was_not_used_for_longest_is_forgotten(monkeypatch):
    own = Constraints(TOKENIZER, VOCAB, [EOS])
    forms = [tag({"type": "const_string", "value": letter}) for letter in "abc"]
    for form in forms:
        own.compile(form)
    own.compile(forms[0])
    assert len(own._known) == 3
    monkeypatch.setattr("dsv4.engine.constraint.KEPT", 1)
    own.compile(tag({"type": "const_string", "value": "d"}))
    assert len(own._known) == 1


def test_many_threads_compile(constraints):
    def work(n):
        return allowed(constraints.compile(tag({"type": "const_string", "value": "xyz"[n % 3]})))

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, range(24)))
    assert all(found[n] == found[n % 3] for n in range(24))


def test_only_a_grammar_needs_the_library():
    code = (
        "import sys, torch, dsv4.engine.constraint, dsv4.engine.sampler as s, dsv4.chat\n"
        "s.choose(torch.zeros(1, 9), [s.Row(s.Job([1]))])\n"
        "assert 'xgrammar' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_grammar_that_cannot_be_completed_fails_its_job_alone(constraints):
    endless = constraints.compile(tag({"type": "json_schema", "json_schema": {"$ref": "#"}}))
    rows = [Row(Job([0]), endless), Row(Job([0], Sampling(temperature=0)))]
    bad, good = choose(torch.zeros(2, VOCAB), rows)
    assert isinstance(bad, ValueError) and "lets no token come" in str(bad) and good.id == 0
