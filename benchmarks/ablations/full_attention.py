"""Every layer sees every token: no compression, no indexer."""

from dataclasses import replace
from pathlib import Path

from dsv4.recipes import find

BASE = find(str(Path(__file__).with_name("base.py")))
RECIPE = replace(
    BASE, name="full_attention", config={"compress_ratios": (0,) * 7, "sliding_window": 512}
)
