"""`dsv4 serve --backend`: what is known without weights, what is refused, a front as a process."""

import json
import shutil
import signal
import subprocess
from dataclasses import fields

import httpx
import pytest
from engine.conftest import Heard
from remote.fake import faking
from typer.testing import CliRunner

from dsv4.checkpoint.load import packaged
from dsv4.cli import app
from dsv4.cli.front import known, remote
from dsv4.cli.serve import Options
from dsv4.engine.request import FullError, Job
from dsv4.sampling import Sampling
from dsv4.tokenizer import Tokenizer

from .command import command, environment

NOBODY = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("preset", "revision"), [("flash", "2026-04"), ("pro", "2026-04"), ("pro-0813", "2026-07")]
)
def test_a_preset_is_known_by_its_name(preset, revision):
    model = known(preset, None)
    assert model.tokenizer.vocab_size > 128_000 and model.context == 1 << 20
    assert model.revision == revision and model.name is None
    assert known(preset, "2026-07").revision == "2026-07"


def test_a_folder_without_weights(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(packaged() / "tokenizer.json", folder)
    model = known(str(folder), None)
    assert (model.name, model.revision, model.context) == ("mine", "2026-04", 1 << 20)
    config = json.loads((packaged() / "config.json").read_text())
    config |= {"max_position_embeddings": 5000, "effort_revision": "2026-07"}
    (folder / "config.json").write_text(json.dumps(config))
    model = known(str(folder), None)
    assert model.revision == "2026-07" and model.context == 5000
    assert model.tokenizer.vocab_size == 8192
    assert known(str(folder), "2026-04").revision == "2026-04"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backend", "nope"], "--backend nope: must be a URL"),
        (["--backend", "http://a", "--backend", "http://a/v1/"], "names one server twice"),
        (["--backend", NOBODY, "--slots", "3", "--copy"], "leave out --slots and --copy"),
        (["nowhere", "--backend", NOBODY], "nowhere is no folder"),
        (["--backend", NOBODY, "--revision", "2020-01"], "2020-01"),
        (["--backend", NOBODY, "--backend-key", "a\tb"], "the API key holds a character"),
        (["--backend-key", "k"], "--backend-key goes with --backend"),
        (["--backend", NOBODY, "--queue", "0"], "--queue 0 lets nothing run"),
    ],
)
def test_what_is_refused(words, said):
    found = CliRunner().invoke(app, ["serve", "--port", "0", *words])
    assert found.exit_code == 2 and said in found.stderr and found.stderr.count("\n") == 1


HERE = {  # options of an engine of one's own, each with a value, its default's too
    "slots": "32",
    "memory": "1GiB",
    "cache_size": "8GiB",
    "cache_per_hour": "1GiB",
    "period": "0",
    "draft": "0",
    "dtype": "float32",
    "mode": "fast",
    "max_resident": "1GiB",
    "copy": None,
    "threads": "1",
}
THERE = "checkpoint backend backend_key host port name any_model api_key thinking system_in_place"
THERE += " revision queue cache allow_host cors grace"  # which a front has


@pytest.mark.parametrize("name", HERE)
def test_what_computes_is_refused_by_a_front(name, tmp_path):
    option = f"--{name.replace('_', '-')}"
    words = [option] if HERE[name] is None else [option, HERE[name]]
    words += ["--backend", NOBODY, "--cache", str(tmp_path)]
    found = CliRunner().invoke(app, ["serve", "--port", "0", *words])
    assert found.exit_code == 2
    assert found.stderr.strip().endswith(f"--backend computes elsewhere: leave out {option}")
    assert "\n" not in found.stderr.strip()


def test_each_option_is_a_fronts_or_an_engines():
    assert {field.name for field in fields(Options)} == {*HERE, *THERE.split()}


def test_the_queue_of_a_front():
    with faking(Tokenizer.load(packaged()), pause=1.0) as fake:
        front = remote([fake.url], None, known("nano", None), 1)
        first = Heard()
        front.submit(Job([1, 2], Sampling(max_tokens=2)), first)
        with pytest.raises(FullError, match="1 requests run already"):
            front.submit(Job([1, 2]), Heard())
        front.close(0.0)


def test_a_front_as_a_process():
    with faking(Tokenizer.load(packaged()), kind="vllm", context=900, key="k") as fake:
        process = subprocess.Popen(
            command("serve", "nano", "--port", "0", "--backend", fake.url, "--backend", NOBODY),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(DSV4_BACKEND_KEY="k"),
        )
        try:
            name, _, url = process.stdout.readline().strip().partition(" at ")
            assert name == "nano"
            (model,) = httpx.get(f"{url}/v1/models").json()["data"]
            assert model["max_model_len"] == 900
            assert [one["live"] for one in httpx.get(f"{url}/health").json()["backends"]] == [1, 0]
            body = {"model": "nano", "messages": [{"role": "user", "content": "x"}]}
            body |= {"thinking": {"type": "disabled"}, "max_tokens": 9}
            reply = httpx.post(f"{url}/v1/chat/completions", json=body).json()
            assert reply["choices"][0]["finish_reason"] == "stop"
            assert reply["usage"]["completion_tokens"] == 4
            assert fake.asked[0]["prompt"][0] == 0 and fake.asked[0]["max_tokens"] == 9
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            said = process.stderr.read().splitlines()
            assert f"dsv4: {NOBODY} cannot be reached" in said[0] and len(said) == 2
        finally:
            process.kill()
            process.wait(20)
