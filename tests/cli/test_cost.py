"""`dsv4 cost` as a user runs it."""

import json

import pytest
from typer.testing import CliRunner

from dsv4.cli import app
from dsv4.cli.cost import Options
from dsv4.cli.sizes import parse_contexts


def run(*args):
    return CliRunner().invoke(app, ["cost", *map(str, args)])


def test_one_object_with_ratios():
    found = json.loads(run("flash", "--context", "1M", "--against", "v3.2", "--json").stdout)
    assert found["context"] == 10**6 and found["model"] == "flash"
    assert (
        round(found["ratio"]["flops"], 2) == 0.10 and round(found["ratio"]["kv_cache"], 2) == 0.07
    )
    assert found["flops_per_token"] > 1e11 and found["kv_cache_bytes"] > 3e9


def test_a_list_of_models_and_contexts():
    rows = json.loads(run("nano", "flash", "--context", "4K..8K", "--json").stdout)
    assert [(row["model"], row["context"]) for row in rows] == [
        ("nano", 4000),
        ("nano", 8000),
        ("flash", 4000),
        ("flash", 8000),
    ]
    assert "ratio" not in rows[0]


def test_lines_time_and_price():
    said = run(
        "nano",
        "--context",
        4096,
        "--bandwidth",
        "32GB",
        "--rate",
        "1e11",
        "--turns",
        3,
        "--price-hit",
        1,
        "--price-miss",
        10,
        "--price-out",
        20,
        "--memory",
        "8GB",
    )
    assert said.exit_code == 0, said.output
    assert "tokens a second" in said.stdout and "3 turns: " in said.stdout


def test_what_fits_and_a_conversation_as_json():
    words = ["--memory", "200GB", "--turns", 3, "--price-miss", 10, "--json"]
    found = json.loads(run("flash", *words).stdout)
    fits = {row["machine"]: row for row in found["fits"]}
    assert all(row["memory"] <= 200 * 10**9 for row in fits.values())
    assert fits["8 x 141 GB accelerators"]["sequences"] > 0 == fits["laptop, 16 GB"]["sequences"]
    assert found["conversation"]["turns"] == 3 and found["conversation"]["price"] > 0
    assert found["conversation"]["hits"] == 0 + 1700 + 2400


def test_a_plot(tmp_path):
    pytest.importorskip("matplotlib")
    assert run("nano", "--against", "v3.2", "--plot", tmp_path / "a.png").exit_code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "args, said",
    [
        (["flash", "--context", "2M"], "must be 1 to 1048576"),
        (["flash", "--context", "many"], "--context many: must be tokens"),
        (["flash", "--against", "v2"], "--against v2: must be v3.2"),
        (["flash", "--bandwidth", "fast"], "--bandwidth fast: must be a size"),
        (["flash", "--rate", "0"], "--rate 0.0: must be above 0"),
        (["flash", "--rate", "nan"], "--rate nan: must be above 0"),
        (["flash", "--turns", "0"], "turns"),
        (["flash", "--turns", "3", "--new", "-1"], "new"),
        (["flash", "--turns", "3", "--price-hit", "-1"], "price-hit"),
        (["flash", "--context", "0"], "--context 0: must be tokens"),
        (["flash", "--context", "999999999999999999999"], "context = 999999999999999999999"),
        (["flashy"], "flashy is neither a folder nor a preset"),
    ],
)
def test_what_is_refused(args, said):
    found = run(*args)
    assert found.exit_code == 2 and said in found.stderr and "Traceback" not in found.stderr


def test_contexts():
    assert parse_contexts("4K,1M") == [4000, 10**6]
    assert parse_contexts("1_000_000") == [10**6] == parse_contexts("1m")
    assert parse_contexts("4K..20K") == [4000, 8000, 16000, 20000]
    assert parse_contexts("1Ki…4Ki") == [1024, 2048, 4096] == parse_contexts("1Ki...4Ki")
    for wrong in ("0", "4K..1K", "1..2..3", "", "-4", "4X"):
        with pytest.raises(ValueError, match="--context"):
            parse_contexts(wrong)


def test_speeds():
    """One that is not given has no bound."""
    inf = float("inf")
    for given, speeds in (
        ({}, None),
        ({"bandwidth": "32GB"}, (32e9, inf)),
        ({"rate": 1e12}, (inf, 1e12)),
        ({"bandwidth": "1GB", "rate": 2.0}, (1e9, 2.0)),
    ):
        assert Options(models=["nano"], **given).speeds() == speeds
