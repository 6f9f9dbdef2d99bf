"""A problem and the forms in which it is written."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dsv4.data.document import Document


@dataclass(frozen=True)
class Problem:
    """What is asked, the answer, and the steps that lead to it, if any."""

    key: str
    question: str
    answer: str
    steps: str = ""

    def document(self, rng: random.Random) -> Document:
        """As prose or chat; steps before the answer, as reasoning, or left out."""
        shown = self.steps and rng.random() < 0.6
        told = f"{self.steps}\n{self.answer}" if shown else self.answer
        if rng.random() < 0.5:
            return Document(f"{self.question}\n{told}", key=self.key)
        if not shown or rng.random() < 0.5:
            return Document.exchange(self.question, told, key=self.key)
        user = {"role": "user", "content": self.question}
        reply = {"role": "assistant", "content": self.answer, "reasoning_content": self.steps}
        return Document(messages=(user, reply), key=self.key)
