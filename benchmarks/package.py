"""Make the package data of a finished `dsv4 train` run: python benchmarks/package.py RUN

Writes src/dsv4/nano: the model in the released layout, its tokenizer, NOTICE, training.json with
what the run was and what the model reaches on each held-out text, before and after rounding to FP8
and FP4.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch

import dsv4
from dsv4.checkpoint.folder import TOKENIZER_FILES
from dsv4.data.build import NOTICE_FILE
from dsv4.train.checkpoints import Checkpoints
from dsv4.train.pretrain import CHECKPOINTS, Run
from dsv4.train.recipe import Recipe, Text

NANO = Path(__file__).parent.parent / "src/dsv4/nano"
TOKENS = 1 << 16  # of each held-out text, if there are as many


def main(folder: Path) -> None:
    """Load the run, save its model, evaluate both forms."""
    state = Checkpoints(folder / CHECKPOINTS).newest(print)
    recipe = Recipe.from_dict(state["recipe"])
    texts = recipe.text or (Text(folder=str(folder / "data")),)
    run = Run(recipe, folder, texts=texts, state=state)
    for extra in ("NOTICE", "training.json"):
        (NANO / extra).unlink(missing_ok=True)
    files = [Path(texts[0].folder) / name for name in TOKENIZER_FILES]
    dsv4.save(run.model.state_dict(), run.config, NANO, tokenizer_files=files, overwrite=True)
    run.recipe = dataclasses.replace(recipe, evaluate_tokens=TOKENS)
    trained = bits(run)
    run.trainer.model = dsv4.load(NANO, dtype=torch.float32)
    released = bits(run)
    named = tuple(dataclasses.replace(text, folder=Path(text.folder).name) for text in recipe.text)
    info = {
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "steps": run.step,
        "tokens": run.position.tokens,
        "minutes": run.history.seconds / 60,
        "recipe": dataclasses.replace(recipe, text=named).to_dict(),
        "bits_per_byte": trained.pop("bits_per_byte"),
        "released_bits_per_byte": released.pop("bits_per_byte"),
        "texts": {name: [bits, released[name]] for name, bits in trained.items()},
    }
    (NANO / "training.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    (NANO / "NOTICE").write_bytes((Path(texts[0].folder) / NOTICE_FILE).read_bytes())
    print(json.dumps(info, indent=1))


def bits(run: Run) -> dict[str, float]:
    """Bits a byte of all held-out text, and by the name of each."""
    found = run.evaluate().items()
    return {key.removeprefix("bits_per_byte/"): bits for key, bits in found if "bits" in key}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
