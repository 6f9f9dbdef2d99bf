"""Make the package data of a finished `dsv4 train` run: python benchmarks/package.py RUN

Writes src/dsv4/nano: the model in the released layout, its tokenizer, NOTICE, training.json with
what the run was and what the model reaches before and after rounding to FP8 and FP4.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import dsv4
from dsv4.checkpoint.official import TOKENIZER_FILES
from dsv4.data.build import NOTICE_FILE
from dsv4.train.pretrain import Run
from dsv4.train.settings import Settings

NANO = Path(__file__).parent.parent / "src/dsv4/nano"


def main(folder: Path) -> None:
    """Load the run, save its model, evaluate both forms."""
    saved = torch.load(folder / "state.pt", weights_only=True)
    config = dsv4.Config.from_dict(saved["config"])
    run = Run(config, Settings(**saved["settings"]), folder / "data", folder)
    run.resume()
    for extra in ("NOTICE", "training.json"):
        (NANO / extra).unlink(missing_ok=True)
    files = [folder / "data" / name for name in TOKENIZER_FILES]
    dsv4.save(run.model.state_dict(), config, NANO, tokenizer_files=files, overwrite=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tokens = run.settings.batch * run.settings.seq_len
    info = {
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "steps": run.step,
        "tokens": run.step * tokens,
        "minutes": sum(tokens / row["tokens_per_s"] for row in rows) / 60,
        "settings": saved["settings"],
        "bits_per_byte": run.evaluate()["bits_per_byte"],
    }
    run.model = dsv4.load(NANO, dtype=torch.float32)
    info["released_bits_per_byte"] = run.evaluate()["bits_per_byte"]
    (NANO / "training.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    (NANO / "NOTICE").write_bytes((folder / "data" / NOTICE_FILE).read_bytes())
    print(json.dumps(info, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
