"""Scores by our adapters are lm-eval's own: of transformers' model, and of its client of URLs."""

import pytest
import torch
from eval.lmtasks import ROWS, write
from server.engines import engine_of
from server.running import serving

import dsv4
from dsv4.checkpoint.load import packaged
from dsv4.cost.price import Prices
from dsv4.eval.endpoint import UrlSubject
from dsv4.eval.inprocess import EngineSubject
from dsv4.eval.log import Log
from dsv4.eval.report import rows_of
from dsv4.eval.run import Plan, run
from dsv4.eval.subject import score
from dsv4.eval.suites import suite_of
from dsv4.tokenizer import Tokenizer

lm_eval = pytest.importorskip("lm_eval")
tasks_of = pytest.importorskip("lm_eval.tasks")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

NAMES = ["own_choice", "own_text", "own_several", "own_shots", "own_word"]
METRICS = {"own_text": "exact_match"}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write(folder)
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


@pytest.fixture(scope="module")
def fast():
    """The released tokenizer as transformers has it; encoded texts begin with BOS."""
    from tokenizers.processors import TemplateProcessing

    bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    out = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(packaged() / "tokenizer.json"),
        **{"bos_token": bos, "eos_token": eos, "pad_token": eos},
    )
    out.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, out.bos_token_id)]
    )
    return out


def own(model, definitions, names):
    """Each document's metrics, and the scores, as lm-eval has them."""
    manager = tasks_of.TaskManager(include_path=definitions, include_defaults=False)
    found = lm_eval.simple_evaluate(
        model, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    samples = {name: {s["doc_id"]: s for s in found["samples"][name]} for name in names}
    return samples, found["results"]


def ours(subject, definitions, folder, names):
    tasks = suite_of([f"lm-eval:{name}" for name in names], include=definitions).tasks
    log = Log(folder, {"model": "reference"}, resume=False)
    run(Plan(tasks, concurrency=3), subject, log)
    log.close()
    table = rows_of(tasks, log.rows, seed=0, prices=Prices(0, 0, 0), notes={})
    return {
        name: {
            row["target"]["doc"]: row for row in log.rows.values() if row["target"]["task"] == name
        }
        for name in names
    }, {(row.task.removeprefix("lm-eval:"), row.metric): row.score for row in table}


def same(mine, theirs, tolerance):
    """Of every document, and of the tasks."""
    (mine, scores), (theirs, results) = mine, theirs
    compared = []
    for name in NAMES:
        metric = METRICS.get(name, "acc")
        assert len(mine[name]) == len(theirs[name]) == len(ROWS)
        assert scores[name, metric] == pytest.approx(100 * results[name][f"{metric},none"])
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


def test_a_reference_model(both, fast, definitions, tmp_path):
    pytest.importorskip("accelerate")
    pytest.importorskip("peft")
    from lm_eval.models.huggingface import HFLM

    inside, outside, theirs, _ = both
    reference = HFLM(theirs, tokenizer=fast, add_bos_token=True, device="cpu", batch_size=1)
    found = own(reference, definitions, NAMES)
    same(ours(inside, definitions, tmp_path / "inside", NAMES), found, 1e-3)
    same(ours(outside, definitions, tmp_path / "outside", NAMES), found, 1e-3)


def test_texts_longer_than_the_context(both, fast, definitions, tmp_path, monkeypatch):
    """Perplexities by windows of 24 tokens; BOS is before the first alone, and not predicted."""
    pytest.importorskip("accelerate")
    pytest.importorskip("peft")
    from lm_eval.models.huggingface import HFLM

    inside, _, theirs, url = both
    monkeypatch.setattr(type(inside._engine), "context", 26)
    outside = UrlSubject(url)
    reference = HFLM(
        theirs, tokenizer=fast, add_bos_token=False, device="cpu", batch_size=1, max_length=24
    )
    samples, results = own(reference, definitions, ["own_rolling"])
    for number, subject in enumerate((inside, outside)):
        mine, scores = ours(subject, definitions, tmp_path / str(number), ["own_rolling"])
        assert max(row["prompt_tokens"] for row in mine["own_rolling"].values()) > 2 * 24
        for doc, row in mine["own_rolling"].items():
            other = samples["own_rolling"][doc]["resps"][0][0]
            assert row["scores"][0][0] == pytest.approx(float(other), abs=1e-3)
        for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
            right = results["own_rolling"][f"{metric},none"]
            assert scores["own_rolling", metric] == pytest.approx(right, rel=1e-4)
    outside.close()


def test_its_own_runner_with_our_subjects(both, definitions, tmp_path):
    from dsv4.eval.lmeval import SubjectLM

    inside, outside, *_ = both
    mine = ours(inside, definitions, tmp_path, NAMES)
    same(
        mine, own(SubjectLM(outside, 2), definitions, NAMES), 1e-4
    )  # a float model, in other batches
    assert score(inside, "a", "b") == score(outside, "a", "b")


def test_names_that_it_does_not_know(definitions):
    with pytest.raises(ValueError, match="lm-eval cannot load no_such_task"):
        suite_of(["lm-eval:no_such_task"], include=definitions)
