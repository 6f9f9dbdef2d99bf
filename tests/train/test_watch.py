"""What is seen of a run: its lines, its bar, its sinks, its curves, its share of the peak."""

import io
import json
import sys
import types

import pytest
import torch
from rich.console import Console

from dsv4 import Config
from dsv4.cli.bar import Bar
from dsv4.train import flops, sinks
from dsv4.train.plot import plot, read_rows
from dsv4.train.progress import Lines, Progress, duration, line
from dsv4.train.recipe import Recipe, Stage

ROW = {"step": 20, "tokens": 5120, "stage": 0, "loss": 3.21, "lr": 1e-2, "tokens_per_s": 2100.4}
ROW |= {"mfu": 0.41, "memory": 3 << 30, "seconds_left": 4000.0, "expert_load": 1.52, "norm": 0.5}
ROW |= {"mtp_loss": 4.0, "validation_loss": 3.3, "bits_per_byte": 1.4}
RECIPE = Recipe(name="tiny", stages=(Stage(tokens=10, seq_len=10, batch_tokens=10),))


def test_a_line_says_what_matters():
    assert line(ROW | {"index_kl": 0.5, "index_recall": 0.9, "anticipated": True}, 10**6) == (
        "step 20  5.12K/1M tokens  loss 3.210  index KL 0.500 recall 0.90  lr 1.0e-02  "
        "2,100 tokens/s (MFU 41%)  load 1.5×  3.0 GiB  67 min left  routed ahead  "
        "validation 3.300 (1.400 bits/byte)"
    )
    found = [duration(seconds) for seconds in (3, 200, 9000, 400_000)]
    assert found == ["3 s", "3 min", "2.5 h", "4.6 days"]


def test_lines_come_at_every_tenth_step_and_evaluation():
    said = []
    lines = Lines(said.append)
    plain = {name: value for name, value in ROW.items() if name != "validation_loss"}
    for step in range(1, 21):
        lines.show(plain | {"step": step}, 10**6)
    lines.show(ROW | {"step": 21}, 10**6)
    lines.show({"step": 30, "tokens": 1, "event": "skipped"}, 10**6)
    assert [words.split()[1] for words in said] == ["10", "20", "21"]
    assert isinstance(lines, Progress)


def test_the_bar_shows_text_as_it_is():
    screen = io.StringIO()
    bar = Bar(Console(file=screen, force_terminal=True, width=150))
    assert isinstance(bar, Progress)
    bar.show({**ROW, "step": 7, "stage": 0}, 10**4)
    bar.note("a [bold]note[/] with \x1b[31mcolour")
    bar.close()
    shown = screen.getvalue()
    assert "step 7  loss 3.210  2,100 tokens/s (41%)  load 1.5×  3.0 GiB  67 min" in shown
    assert "validation 3.300" in shown and "a [bold]note[/] with" in shown
    assert "\x1b[31mcolour" not in shown


class Service(types.ModuleType):
    """Of trackio's and wandb's form."""

    def __init__(self, name):
        super().__init__(name)
        self.seen = []

    def init(self, **what):
        self.seen.append(("init", what["project"], what["name"], what["config"]["lr"]))
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, numbers, step=None):
        step = numbers.pop("step") if step is None else step
        if step == 3:
            raise ConnectionError("no route\nto host")
        self.seen.append((step, numbers))

    def finish(self):
        self.seen.append("finish")


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_services_are_told_each_step(name, monkeypatch, tmp_path):
    service, said = Service(name), []
    monkeypatch.setitem(sys.modules, name, service)
    told = sinks.Sinks((name,), tmp_path / "out", RECIPE, say=said.append)
    told.log(ROW | {"event": "skipped", "why": "nan"})
    told.close()
    numbers = {key: float(value) for key, value in ROW.items() if key != "step"}
    assert service.seen == [("init", "dsv4", "tiny out", 1e-2), (20, numbers), "finish"]
    told.log(ROW | {"step": 3})
    told.log(ROW | {"step": 4})
    assert said == [f"{name} failed and is told no more: no route"]
    assert len(service.seen) == 3


def test_a_service_that_does_not_begin_ends_no_run(monkeypatch, tmp_path):
    service, said = Service("wandb"), []
    service.init = lambda **what: (_ for _ in ()).throw(PermissionError("log in first\nhere"))
    monkeypatch.setitem(sys.modules, "wandb", service)
    told = sinks.Sinks(("wandb",), tmp_path, RECIPE, say=said.append)
    told.log(ROW)
    told.close()
    assert said == ["wandb failed and is told no more: log in first"] and service.seen == []


def test_tensorboard_writes_scalars(monkeypatch, tmp_path):
    seen, module = [], types.ModuleType("torch.utils.tensorboard")

    class SummaryWriter:
        def __init__(self, log_dir):
            seen.append(log_dir)

        def add_scalar(self, *scalar):
            seen.append(scalar)

        def close(self):
            seen.append("closed")

    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    told = sinks.Sinks(("tensorboard",), tmp_path, RECIPE, say=pytest.fail)
    told.log({"step": 5, "loss": 2.0})
    told.close()
    assert seen == [str(tmp_path / "tensorboard"), ("loss", 2.0, 5), "closed"]


@pytest.fixture
def trained(run):
    """A short run with a sink, for real: its rows, and what it said."""

    def train(name):
        one, said = run(f"with {name}", sinks=(name,), steps=3), []
        assert one.train(said.append)
        assert not any("failed" in line for line in said), said
        rows = [json.loads(line) for line in one.metrics.file.read_text().splitlines()]
        return one.out, rows

    return train


def test_tensorboard_for_real(trained):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, rows = trained("tensorboard")
    found = EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    assert {"loss", "lr", "bits_per_byte", "tokens_per_s"} <= set(found.Tags()["scalars"])
    losses = [(each.step, each.value) for each in found.Scalars("loss")]
    assert losses == [(row["step"], pytest.approx(row["loss"])) for row in rows]


def test_trackio_for_real(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    _, rows = trained("trackio")
    found = SQLiteStorage.get_logs("dsv4", "run with trackio")
    assert [row["step"] for row in found] == [1, 2, 3]
    assert [row["loss"] for row in found] == [pytest.approx(row["loss"]) for row in rows]


def test_wandb_for_real(trained, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    pytest.importorskip("wandb")
    out, _ = trained("wandb")
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    written = file.read_bytes()
    assert all(name in written for name in (b"loss", b"bits_per_byte", b"run with wandb"))


def test_a_sink_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match=r"sinks = 'trackio' is not installed: pip install"):
        sinks.check_sinks(("trackio",))


@pytest.fixture
def make_run(tmp_path):
    def make(name, steps=60, text=""):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows = []
        for step in range(1, steps + 1):
            row = {**ROW, "step": step, "tokens": 128 * step, "loss": 5 - step / 30}
            row |= {"stage": step // 40, "index_kl": 1 / step}
            if step % 20:
                del row["validation_loss"], row["bits_per_byte"]
            rows.append(row)
        rows.append({"step": steps, "tokens": 128 * steps, "event": "rollback", "from": steps + 2})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(lines + text)
        return folder

    return make


def test_curves_of_several_runs(make_run, tmp_path):
    pytest.importorskip("matplotlib")
    runs = [make_run("a"), make_run("b", text='{"step": 61, "to'), make_run("c/a", steps=3)]
    out = plot(runs, tmp_path / "steps.png", by="steps")
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 20_000
    assert len(read_rows(runs[1])) == 61
    with pytest.raises(ValueError, match="--by days: must be tokens or steps"):
        plot(runs, tmp_path / "x.png", by="days")
    with pytest.raises(FileNotFoundError, match=r"other holds no metrics.jsonl"):
        plot([tmp_path / "other"], tmp_path / "x.png")
    (runs[0] / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="line 1: no metrics of a step"):
        plot(runs, tmp_path / "x.png")
    (runs[0] / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="has made no step yet"):
        plot(runs[:1], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_operations_are_those_of_counted_products(make_config, monkeypatch):
    """Against torch's own count of one forward of plain operators, whose sparse products are padded
    or gathered."""
    monkeypatch.setattr("dsv4.ops.native.trainer", lambda *tensors: None)
    from torch.utils.flop_counter import FlopCounterMode

    from dsv4 import Transformer
    from dsv4.train.data import Batch
    from dsv4.train.loss import losses

    config = make_config(index_topk=64, hc_sinkhorn_iters=1)
    model = Transformer(config)
    model.initialize(0)
    wide = torch.randint(97, (1, 130))
    batch = Batch(wide[:, :-2], wide[:, 1:-1], wide[:, 1:-1], wide[:, 2:])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        losses(model, batch)
    counted = counter.get_total_flops() / 128
    ours = flops.flops_per_token(config, 128) / 3
    assert 0.6 * counted < ours < 1.1 * counted


def test_active_parameters(make_config):
    config = make_config(num_nextn_predict_layers=0, compress_ratios=[0, 4, 128, 4, 128])
    whole = make_config(
        num_nextn_predict_layers=0, compress_ratios=[0, 4, 128, 4, 128], num_experts_per_tok=8
    )
    experts = 5 * 3 * 64 * 32  # of one expert in every layer
    assert flops.active_parameters(whole) - flops.active_parameters(config) == 5 * experts
    assert 12e9 < flops.active_parameters(Config.from_preset("flash")) < 13.2e9
