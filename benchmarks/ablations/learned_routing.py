"""The first layers route by their scores too, not by the token's hash."""

from dataclasses import replace
from pathlib import Path

from dsv4.recipes import find

BASE = find(str(Path(__file__).with_name("base.py")))
RECIPE = replace(BASE, name="learned_routing", config={"num_hash_layers": 0})
