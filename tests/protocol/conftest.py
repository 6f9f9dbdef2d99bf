"""How far the property tests search; `pytest tests/protocol --hypothesis-profile=fuzz`: far."""

from hypothesis import settings

settings.register_profile("dsv4", deadline=None, max_examples=200)
settings.register_profile("fuzz", deadline=None, max_examples=40_000)
settings.load_profile("dsv4")
