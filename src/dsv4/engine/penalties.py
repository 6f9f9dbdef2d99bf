"""What a row's own tokens do to its logits, n_t being how often token t was generated.

    x_t ← x_t / r if x_t > 0, else x_t · r                 where t is in the prompt or n_t > 0
    x_t ← x_t − n_t · frequency − [n_t > 0] · presence + bias_t

The first is transformers' (and vLLM's) repetition penalty, the second OpenAI's formula.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dsv4.engine.request import Job


class Penalties:
    """The penalties and the bias of one job, and the tokens that it has met."""

    def __init__(self, job: Job):
        self.job = job
        self._penalised = bool(
            job.repetition_penalty != 1 or job.frequency_penalty or job.presence_penalty
        )
        asked = job.ids[: len(job.ids) - job.said]
        prompt = asked if job.repetition_penalty != 1 else ()  # the others do not look at it
        self._met = np.unique(np.asarray(prompt, dtype=np.int64))  # ids, each once; new ones behind
        self._counts = np.zeros(len(self._met), dtype=np.float32)  # how often generated
        self._place = {token: place for place, token in enumerate(self._met.tolist())}
        self._prompt = len(self._place)
        self._bias_ids = torch.tensor(list(job.logit_bias), dtype=torch.int64)
        self._bias = torch.tensor(list(job.logit_bias.values()), dtype=torch.float32)

    @classmethod
    def of(cls, job: Job) -> Penalties | None:
        """The job's, or None where it asks for nothing."""
        penalties = cls(job)
        return penalties if penalties._penalised or job.logit_bias else None

    def add(self, token: int) -> None:
        """One token more was generated."""
        if not self._penalised:
            return
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._met):  # twice the room
            self._met = np.resize(self._met, 2 * place + 16)
            self._counts = np.append(self._counts, np.zeros(place + 16, dtype=np.float32))
        self._met[place] = token
        self._counts[place] += 1

    def remove(self, token: int) -> None:
        """Take back the last `add`."""
        if not self._penalised:
            return
        place = self._place[token]
        self._counts[place] -= 1
        if place >= self._prompt and self._counts[place] == 0:
            assert place == len(self._place) - 1
            del self._place[token]

    def apply(self, logits: Tensor) -> None:
        """Change logits [vocab] in place. Raises IndexError for an id outside of them."""
        if self._penalised:
            count, job = len(self._place), self.job
            met = torch.from_numpy(self._met[:count]).to(logits.device)
            times = torch.from_numpy(self._counts[:count]).to(logits)
            x, r = logits[met], job.repetition_penalty
            x = torch.where(x > 0, x / r, x * r)
            x = x - times * job.frequency_penalty - (times > 0) * job.presence_penalty
            logits[met] = x
        if len(self._bias):
            logits.index_add_(0, self._bias_ids.to(logits.device), self._bias.to(logits))
