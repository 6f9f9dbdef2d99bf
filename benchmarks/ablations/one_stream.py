"""One stream between layers in place of mHC's four."""

from dataclasses import replace
from pathlib import Path

from dsv4.recipes import find

BASE = find(str(Path(__file__).with_name("base.py")))
RECIPE = replace(BASE, name="one_stream", config={"hc_mult": 1})
