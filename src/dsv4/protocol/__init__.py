"""The prompt protocol: conversations ↔ text. Standard library only."""
