"""Scores by our adapters are lm-eval's own: of transformers' model, and of its client of URLs."""

import json

import pytest
import torch
from server.engines import engine_of
from server.running import serving

import dsv4
from dsv4.checkpoint.load import packaged
from dsv4.eval.endpoint import UrlSubject
from dsv4.eval.inprocess import EngineSubject
from dsv4.eval.log import Log
from dsv4.eval.run import Plan, run
from dsv4.eval.subject import score
from dsv4.eval.suites import suite_of
from dsv4.tokenizer import Tokenizer

lm_eval = pytest.importorskip("lm_eval")
tasks_of = pytest.importorskip("lm_eval.tasks")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

ROWS = [
    {"q": f"What is {a} + {b}?", "choices": [str(a + b), str(a), f"{b}0"], "gold": a % 3}
    for a in range(1, 3)
    for b in (2, 7)
]
CHOICE = """\
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}} "
doc_to_choice: "{{choices}}"
doc_to_target: gold
num_fewshot: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TEXT = """\
task: own_text
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{q}} I think that the answer must be"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["a", "\\n"], max_gen_toks: 6, do_sample: false}
num_fewshot: 0
metric_list: [{metric: exact_match}]
"""
NAMES = ["own_choice", "own_text"]


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in (("choice", CHOICE), ("text", TEXT)):
        (folder / f"{name}.yaml").write_text(text.replace("FILE", str(file)))
    return str(folder)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The small model in float32 as a subject, behind a URL, and as transformers has it."""
    path = tmp_path_factory.mktemp("reference") / "model"
    model = dsv4.load(packaged(), torch.float32)
    config = model.config.replace(
        quantization_config=None, expert_dtype=None, torch_dtype="float32"
    )
    dsv4.save(model.state_dict(), config, path)
    theirs = transformers.DeepseekV4ForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = Tokenizer.load(packaged())
    engine = engine_of(dsv4.load(path), tokenizer)
    with serving(engine, tokenizer) as server:
        yield (
            EngineSubject(engine, tokenizer, "reference"),
            UrlSubject(server.url),
            theirs,
            server.url,
        )


def own(model, definitions, **more):
    """Each document's metrics, and the mean of each, as lm-eval has them."""
    manager = tasks_of.TaskManager(include_path=definitions)
    found = lm_eval.simple_evaluate(
        model, tasks=NAMES, task_manager=manager, log_samples=True, bootstrap_iters=0, **more
    )
    return {name: {s["doc_id"]: s for s in found["samples"][name]} for name in NAMES}


def ours(subject, definitions, folder):
    tasks = suite_of([f"lm-eval:{name}" for name in NAMES], include=definitions).tasks
    log = Log(folder, {"model": "reference"}, resume=False)
    run(Plan(tasks, concurrency=3), subject, log)
    log.close()
    return {
        name: {
            row["target"]["doc"]: row for row in log.rows.values() if row["target"]["task"] == name
        }
        for name in NAMES
    }


def same(mine, theirs, tolerance):
    compared = []
    for name, metric in (("own_choice", "acc"), ("own_text", "exact_match")):
        assert len(mine[name]) == len(theirs[name]) == len(ROWS)
        for number, row in mine[name].items():
            assert row["score"] == theirs[name][number][metric], (name, number)
            if name == "own_text":
                text = theirs[name][number]["resps"][0][0]
                if "｜" not in text:  # transformers spells control tokens in text
                    assert row["text"] == text
                    compared.append(text)
                continue
            for said, (other,) in zip(row["scores"], theirs[name][number]["resps"], strict=True):
                assert said[0] == pytest.approx(float(other[0]), abs=tolerance)
                assert said[1] == (str(other[1]) == "True")
    assert sum(map(bool, compared)) >= 2


def test_a_reference_model(both, definitions, tmp_path):
    pytest.importorskip("accelerate")
    pytest.importorskip("peft")
    from lm_eval.models.huggingface import HFLM

    inside, outside, theirs, _ = both
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(packaged() / "tokenizer.json"),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
        pad_token="<｜end▁of▁sentence｜>",
    )
    from tokenizers.processors import TemplateProcessing

    bos = "<｜begin▁of▁sentence｜>"
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, fast.bos_token_id)]
    )
    reference = HFLM(theirs, tokenizer=fast, add_bos_token=True, device="cpu", batch_size=1)
    found = own(reference, definitions)
    same(ours(inside, definitions, tmp_path / "inside"), found, 1e-3)
    same(ours(outside, definitions, tmp_path / "outside"), found, 1e-3)


def test_its_own_runner_with_our_subjects(both, definitions, tmp_path):
    from dsv4.eval.lmeval import SubjectLM

    inside, outside, *_ = both
    mine = ours(inside, definitions, tmp_path)
    same(mine, own(SubjectLM(outside, 2), definitions), 1e-4)  # a float model, in other batches
    assert score(inside, "a", "b") == score(outside, "a", "b")


def test_names_that_it_does_not_know(definitions):
    with pytest.raises(ValueError, match="lm-eval cannot load no_such_task"):
        suite_of(["lm-eval:no_such_task"], include=definitions)
