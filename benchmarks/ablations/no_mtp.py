"""The next token only."""

from dataclasses import replace
from pathlib import Path

from dsv4.recipes import find

BASE = find(str(Path(__file__).with_name("base.py")))
RECIPE = replace(
    BASE,
    name="no_mtp",
    config={"num_nextn_predict_layers": 0, "compress_ratios": (0, 0, 4, 128, 4, 128)},
)
