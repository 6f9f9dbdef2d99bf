"""Agents: errands that are done by calls, and all that stops them."""

import json
import re
from dataclasses import replace

import pytest
from eval.fake import Fake
from server.engines import Scripted
from server.running import serving

from dsv4.cost.price import Prices
from dsv4.eval import report
from dsv4.eval.agent.environment import Environment, Tool, parameters
from dsv4.eval.agent.loop import Limits
from dsv4.eval.asking import ask, graded
from dsv4.eval.endpoint import UrlSubject
from dsv4.eval.generated.errands import SHELVES, shelves
from dsv4.eval.inprocess import EngineSubject
from dsv4.eval.log import Log
from dsv4.eval.run import Plan, run
from dsv4.eval.subject import Reply
from dsv4.eval.suites import suite_of
from dsv4.protocol.requests import from_openai


def call(tool, /, **arguments):
    return {"name": tool, "arguments": json.dumps(arguments)}


class Agent(Fake):
    """Replies as a policy of the results so far says; a dict or a list of them is calls."""

    def __init__(self, policy, context=1 << 20):
        super().__init__(context=context)
        self.policy = policy

    def generate(self, ask):
        self.asked.append(ask)
        results = [m["content"] for m in ask.prompt if m["role"] == "tool"]
        said = self.policy(ask.prompt[0]["content"], results)
        if isinstance(said, Reply):
            return said
        if isinstance(said, str):
            return Reply(said, "so it is", (), "stop", 9, 3, 5)
        calls = said if isinstance(said, list) else [said]
        return Reply("", f"step {len(results)}", calls, "tool_calls", 9, 3, 5)


def reads(asked, results):
    """Follows the notes."""
    found = results[-1] if results else asked
    if colour := re.search(r"The colour is (\w+)", found):
        return colour[1]
    return call("read_file", path=re.search(r"\w+/\d+\.txt", found)[0])


def counts(asked, results):
    """Asks for two at once, adds, and answers."""
    a, b = re.search(r"do (\w+) and (\w+) have", asked).groups()
    if not results:
        return [call("find_account", name=name) for name in (a, b)]
    if len(results) == 2:
        return [call("amount", account=int(number)) for number in results]
    return call("add", a=int(results[2]), b=int(results[3])) if len(results) == 4 else results[4]


def carries(asked, results):
    """Looks at every shelf, then moves."""
    names = re.search(r"called (.*)\. Move", asked)[1].split(", ")
    thing, target = re.search(r"every (\w+) onto the shelf (\w+)", asked).groups()
    if not results:
        return [call("look", shelf=name) for name in names]
    held = dict(zip(names, map(json.loads, results[:4]), strict=False))
    moves = [
        call("move", thing=thing, count=there[thing], source=name, target=target)
        for name, there in held.items()
        if name != target and thing in there
    ]
    return moves[len(results) - 4] if len(results) - 4 < len(moves) else "done"


def played(name, subject, number=0, **changes):
    (task,) = suite_of([name]).tasks
    return graded(ask(replace(task, **changes), subject, list(task.samples(0))[number], 0))


@pytest.mark.parametrize(
    ("name", "policy", "steps"),
    [("notes_2", reads, 3), ("notes_8", reads, 9), ("notes_32", reads, 33), ("ledger", counts, 4)],
)
def test_errands_that_are_done(name, policy, steps):
    for number in range(8):
        row = played(name, Agent(policy), number)
        assert (row["grade"], row["stopped"], row["steps"]) == ("right", "answered", steps)
        assert row["prompt_tokens"] == 9 * steps and row["completion_tokens"] == 5 * steps
        assert len(row["trace"]) == steps and row["trace"][0]["calls"][0]["result"]


def test_shelves_are_graded_not_words():
    for number in range(8):
        assert played("shelves", Agent(carries), number)["grade"] == "right"
        assert played("shelves", Agent(lambda *_: "done"), number)["grade"] == "wrong"

    def careless(asked, results):  # moves one thing more when all is done
        said = carries(asked, results)
        if said != "done" or "of box" in results[-1]:
            return said
        name = next(n for n, text in zip(SHELVES, results, strict=False) if '"box"' in text)
        other = next(n for n in SHELVES if n != name)
        return call("move", thing="box", count=1, source=name, target=other)

    tasks = {n: s for n, s in enumerate(shelves(0)) if "every box" not in str(s.prompt)}
    number = next(n for n, s in tasks.items() if "box" in str(s.setup))
    row = played("shelves", Agent(careless), number)
    assert (row["grade"], row["stopped"], row["text"]) == ("wrong", "answered", "done")


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("notes_8", lambda asked, results: "The colour is red or blue."),
        ("notes_8", lambda asked, results: reads(asked, results) if len(results) < 3 else "red"),
        ("ledger", lambda asked, results: "1" if len(results) > 3 else counts(asked, results)),
        ("ledger", lambda asked, results: results[0] if results else counts(asked, results)),
    ],
)
def test_errands_that_are_not(name, policy):
    grades = [played(name, Agent(policy), number)["grade"] for number in range(8)]
    assert grades.count("right") <= 2


# ---- what stops an agent -----------------------------------------------------------------------


def test_steps_end():
    row = played("notes_2", Agent(lambda *_: call("list_files", folder="x")), limits=Limits(7))
    assert (row["grade"], row["stopped"], row["steps"]) == ("cut", "steps", 7)
    assert row["reason"] == "the steps ended" and row["text"] == ""
    assert Limits() == Limits(500, 512 * 1024, False)


def test_the_window_is_full():
    def fills(asked, results):
        return call("read_file", path="x" * 400)

    row = played("notes_2", Agent(fills), limits=Limits(context=1000))
    assert (row["grade"], row["stopped"]) == ("cut", "context") and 1 < row["steps"] < 20
    again = played("notes_2", Agent(fills), limits=Limits(30, 1000, discard=True))
    assert (again["stopped"], again["steps"]) == ("steps", 30) and again["discarded"] > 3

    def patient(asked, results):  # answers in the second window
        seen.append(len(results))
        return "red" if seen.count(0) == 2 else fills(asked, results)

    seen = []
    answered = played("notes_2", Agent(patient), limits=Limits(30, 1000, discard=True))
    assert (answered["stopped"], answered["discarded"]) == ("answered", 1)


def test_a_reply_is_cut_or_declined():
    long = played("notes_2", Agent(lambda *_: Reply("red", "", (), "length")))
    assert (long["grade"], long["stopped"], long["text"]) == ("cut", "cut", "")
    no = played("notes_2", Agent(lambda *_: Reply("red", "", (), "content_filter")))
    assert (no["grade"], no["stopped"]) == ("refused", "refused")
    small = played("notes_2", Agent(reads, context=20))
    assert small["grade"] == "failed" and "no room" in small["reason"]


def test_a_tool_that_fails():
    def breaks(path):
        raise RuntimeError("the disk is gone")

    tools = [Tool("read_file", "", parameters(path="string"), breaks)]
    row = played("notes_2", Agent(reads), environment=lambda sample: Environment(tools))
    assert (row["grade"], row["stopped"], row["steps"]) == ("failed", "error", 1)
    assert "the disk is gone" in row["reason"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"name": "rm", "arguments": "{}"}, "there is no tool rm; there are list_files, read_file"),
        ({"name": "read_file", "arguments": "{"}, "no JSON"),
        ({"name": "read_file", "arguments": "[1]"}, "no object"),
        (call("read_file"), "path is missing"),
        (call("read_file", path=1), "path must be of type string"),
        (call("read_file", path="a", line=1), "line is no parameter"),
        (call("read_file", path="a"), "there is no file a"),
    ],
)
def test_wrong_calls_are_told_to_the_agent(said, told):
    def policy(asked, results):
        return said if not results else reads(asked, results[1:])

    row = played("notes_2", Agent(policy))
    first = row["trace"][0]["calls"][0]
    assert first["wrong"] and told in first["result"] and first["result"].startswith("Error: ")
    assert row["grade"] == "right"


def test_types_of_arguments():
    def check(kind, value):
        tool = Tool("t", "", parameters(x=kind), lambda x: "ok")
        return Environment([tool]).do("t", json.dumps({"x": value})).text == "ok"

    assert check("integer", 1) and check("number", 1.5) and check("boolean", True)
    assert not check("integer", True) and not check("integer", 1.5) and not check("string", None)
    assert check("array", []) and check("object", {}) and not check("array", {})


# ---- the protocol ------------------------------------------------------------------------------


def test_reasoning_stays_between_calls():
    agent = Agent(reads)
    played("notes_2", agent, effort="high")
    text = from_openai(agent.asked[-1].chat()).prompt()
    assert text.index("step 0</think>") < text.index("step 1</think>")
    assert text.count("<tool_result>") == 2 and text.endswith("<think>")
    assert text.count('<｜DSML｜invoke name="read_file">') >= 2
    assert [a.seed - agent.asked[0].seed for a in agent.asked] == [0, 1, 2]
    assert all(a.temperature == 1.0 for a in agent.asked)


def invoked(path):
    return (
        'I look.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="read_file">\n'
        f'<｜DSML｜parameter name="path" string="true">{path}</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>"
    )


def test_an_engine_and_a_url_say_the_same(tokenizer, tmp_path):
    (task,) = suite_of(["notes_2"], effort="high").tasks
    sample = next(iter(task.samples(0)))
    first = re.search(r"\w+/\d+\.txt", sample.prompt[0]["content"])[0]
    second = re.search(r"\w+/\d+\.txt", sample.setup[first])[0]
    script = [invoked(first), invoked(second), f"Now.</think>{sample.target}<｜end▁of▁sentence｜>"]
    engine = Scripted(tokenizer)
    engine.context = 1 << 16
    found = []
    with serving(engine, tokenizer) as server:
        for subject in (EngineSubject(engine, tokenizer, "x"), UrlSubject(server.url)):
            engine.say(*script)
            log = Log(tmp_path / str(len(found)), {}, resume=False)
            run(Plan([task], 1, concurrency=1), subject, log)
            log.close()
            found.append(list(log.rows.values()))
    assert found[0] == found[1]
    (row,) = found[0]
    assert (row["grade"], row["steps"], row["reasoning"]) == ("right", 3, "Now.")


# ---- runs --------------------------------------------------------------------------------------


def test_what_is_finished_is_not_run_again(tmp_path):
    tasks = suite_of(["notes_8", "shelves"]).tasks
    whole = Agent(lambda asked, r: (carries if "shelves" in asked else reads)(asked, r))
    log = Log(tmp_path, {}, resume=False)
    run(Plan(tasks, 2), whole, log)
    log.close()
    log = Log(tmp_path, {}, resume=True)
    run(Plan(tasks, 3), whole, log)
    assert len(log.rows) == 6
    before = len(whole.asked)
    run(Plan(tasks, 3), whole, log)
    assert len(whole.asked) == before
    assert "trace" not in next(iter(log.rows.values()))


def test_the_table_counts_what_stopped_them(tmp_path):
    def fickle(asked, results):
        return reads(asked, results) if "7" in asked else call("list_files", folder="x")

    (notes,) = suite_of(["notes_2"]).tasks
    log = Log(tmp_path, {}, resume=False)
    run(Plan([replace(notes, limits=Limits(4))], 10), Agent(fickle), log)
    (row,) = report.rows_of([notes], log.rows, seed=0, prices=Prices(0, 0, 0), notes={})
    assert set(row.stopped) == {"answered", "steps"} and sum(row.stopped.values()) == 10
    text = report.table([row], "x")
    count = row.stopped["answered"]
    assert f"| answered {count}, steps {10 - count} |" in text and "| stopped by | steps |" in text
    assert row.shares["cut"] == (10 - count) / 10 and 3 < row.steps < 4


def test_tools_of_ones_own(tmp_path):
    file = tmp_path / "search.py"
    file.write_text(
        "from dsv4.eval.agent.environment import Environment, Tool, parameters\n"
        "def found(query):\n"
        "    return 'Paris has the tower.'\n"
        "def tools(sample):\n"
        "    return Environment([Tool('search', 'Search.', parameters(query='string'), found)])\n"
        "def none(sample):\n"
        "    return []\n"
    )
    data = tmp_path / "questions.jsonl"
    data.write_text('{"problem": "Which city?", "answer": "Paris"}\n')
    options = {"data": {"browsecomp": str(data)}, "judged": True}
    (task,) = suite_of(["browsecomp"], tools=f"{file}:tools", **options).tasks
    assert task.limits.discard and task.rubric == "equivalence" and task.limits.steps == 500

    def policy(asked, results):
        return results[0] if results else call("search", query=asked)

    row = ask(task, Agent(policy), next(iter(task.samples(0))), 0)
    assert row["text"] == "Paris has the tower." and row["tools"][0]["function"]["name"] == "search"
    with pytest.raises(ValueError, match="needs web search and Python"):
        suite_of(["browsecomp"], **options)
    for spec, message in (
        (f"{file}:no", "no function no"),
        ("x.py:f", "no file"),
        ("x", "must be"),
    ):
        with pytest.raises(ValueError, match=message):
            suite_of(["browsecomp"], tools=spec, **options)
    (task,) = suite_of(["browsecomp"], tools=f"{file}:none", **options).tasks
    with pytest.raises(ValueError, match="no Environment"):
        ask(task, Agent(policy), next(iter(task.samples(0))), 0)
