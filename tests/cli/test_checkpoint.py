"""`dsv4 inspect` and `dsv4 init` as a user runs them."""

import json

import pytest
import torch
from typer.testing import CliRunner

from dsv4.checkpoint import inventory
from dsv4.checkpoint.official import load_into
from dsv4.checkpoint.reader import Checkpoint
from dsv4.cli import app
from dsv4.cli.checkpoint import tokenizer_files
from dsv4.config import Config
from dsv4.model.transformer import Transformer

SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "compress_ratios": (0, 4),
    "n_routed_experts": 4,
    "num_hash_layers": 1,
    "moe_intermediate_size": 32,
}


@pytest.fixture
def small(tmp_path):
    """The path of a small config.json."""
    file = tmp_path / "small.json"
    file.write_text(Config.from_preset("nano").replace(**SMALL).to_json())
    return file


def run(*words) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*words, code=2) -> str:
    """The one line that a wrong call leaves on stderr."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code and not result.stdout, result.output
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    return result.stderr


def test_inspect_flash():
    found = json.loads(run("inspect", "flash", "--json"))
    assert found["tensors"] == 69_187 and found["shards"] == 46
    assert found["bytes"] == 159_609_485_896
    assert found["dtypes"]["I8"] == 33_792 and len(found["dtypes"]) == 6
    assert found["parameters"] == 290_942_289_362
    assert found["activated_parameters"] == 13_799_632_471
    text = run("inspect", "flash")
    for figure in ("46 shards", "69,187", "159,609,485,896", "290,942,289,362", "13,799,632,471"):
        assert figure in text


def test_inspect_tells_the_share_of_a_dspark_draft():
    found = json.loads(run("inspect", "flash-0731", "--json"))
    assert (found["tensors"], found["shards"], found["bytes"]) == (72_317, 48, 166_878_536_440)
    assert (found["mtp_tensors"], found["mtp_bytes"]) == (4_705, 10_862_838_300)
    text = run("inspect", "pro-0813")
    for words in ("66 shards", "149,782", "892,727,580,904", "7,009 tensors, 41,979,375,900 bytes"):
        assert words in text
    assert "3 stages, blocks of 5 tokens" in text and "MTP" not in text


@pytest.mark.parametrize("dtype", ["released", "bf16", "f32"])
def test_init_then_inspect(small, tmp_path, dtype):
    out = tmp_path / "out"
    run("init", out, "--config", small, "--seed", 3, "--dtype", dtype)
    found = json.loads(run("inspect", out, "--json"))
    config = Config.load(out)
    assert found["dtypes"] == inventory.of_config(config).dtypes
    assert found["parameters"] == inventory.of_config(Config.load(small)).parameters
    if dtype == "f32":
        model = Transformer(config)
        model.initialize(3)
        read = Transformer(config)
        load_into(read, out)
        for name, tensor in model.state_dict().items():
            assert torch.equal(read.state_dict()[name], tensor), name


def test_init_depends_on_the_seed_alone(small, tmp_path):
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        run("init", tmp_path / str(number), "--config", small, "--seed", seed)
        weights.append(Checkpoint(tmp_path / str(number)).read_tensor("head.weight"))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_init_will_not_clobber(small, tmp_path):
    run("init", tmp_path / "out", "--config", small)
    said = fails("init", tmp_path / "out", "--config", small)
    assert "already holds a checkpoint" in said and "--overwrite" in said
    run("init", tmp_path / "out", "--config", small, "--overwrite")


def test_tokenizer_of_the_release():
    files = tokenizer_files(129280)
    assert [file.name for file in files] == ["tokenizer.json", "tokenizer_config.json"]
    assert tokenizer_files(77) == []


def test_bad_input(small, tmp_path):
    assert "neither a folder nor a preset (flash, pro, nano," in fails("inspect", "mega")
    assert "no config.json" in fails("inspect", tmp_path)
    assert "unknown preset 'mega'" in fails("init", tmp_path / "a", "--preset", "mega")
    assert "absent.json" in fails("init", tmp_path / "a", "--config", tmp_path / "absent.json")
    assert "exclude each other" in fails(
        "init", tmp_path / "a", "--config", small, "--preset", "pro"
    )
    assert "GiB of memory" in fails("init", tmp_path / "a", "--preset", "pro")
    run("init", tmp_path / "out", "--config", small)
    other = Config.load(small).replace(moe_intermediate_size=64)
    (tmp_path / "out" / "config.json").write_text(other.to_json())
    assert "wrong shape or dtype (81)" in fails("inspect", tmp_path / "out")
    shard = tmp_path / "out" / "model-00002-of-00005.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "truncated" in fails("inspect", tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text('{"hidden_size": -1}')
    assert "hidden_size = -1" in fails("inspect", tmp_path / "out")
