"""AdamW moves every parameter."""

from dataclasses import replace
from pathlib import Path

from dsv4.recipes import find

BASE = find(str(Path(__file__).with_name("base.py")))
RECIPE = replace(BASE, name="adamw", optimizer="adamw", lr=3e-3)
