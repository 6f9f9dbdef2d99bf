"""Evaluation: tasks, graders that say why, logs that can be gone on with, the release's tables."""
