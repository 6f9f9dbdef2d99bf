"""Counts of tokens in the forms of the APIs; dsv4's own say how much of the prefix was reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsv4.server.reply import Reply


@dataclass
class Counts:
    """Of all replies to one request: a prompt counts once."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    drafted: int = 0
    accepted: int = 0
    missed: str = ""

    @classmethod
    def of(cls, replies: Sequence[Reply], prompts: int = 1) -> Counts:
        """The sum; `replies` go `len(replies) / prompts` to a prompt, side by side."""
        out = cls()
        each = max(1, len(replies) // prompts)
        for number, reply in enumerate(replies):
            usage = reply.usage
            if usage is None:
                continue
            if number % each == 0:
                out.prompt += usage.prompt
                out.cached += min(usage.cached, usage.prompt)
                out.missed = out.missed or usage.missed
            out.completion += usage.completion
            out.drafted += usage.drafted
            out.accepted += usage.accepted
            out.reasoning += reply.reasoning_tokens
        return out

    def openai(self, thinking: bool) -> dict[str, Any]:
        """Of Chat Completions and Completions."""
        out: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
        if thinking:
            out["completion_tokens_details"] = {"reasoning_tokens": self.reasoning}
        return out | {
            "prompt_cache_hit_tokens": self.cached,
            "prompt_cache_miss_tokens": self.prompt - self.cached,
        }

    def anthropic(self, output: int | None = None) -> dict[str, Any]:
        """Of Messages: its input tokens are those that were not cached."""
        return {
            "input_tokens": self.prompt - self.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached,
            "output_tokens": self.completion if output is None else output,
            "service_tier": "standard",
        }

    def responses(self) -> dict[str, Any]:
        """Of Responses."""
        return {
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.prompt + self.completion,
        }

    def own(self) -> dict[str, Any]:
        """What no API has a place for, under the key `dsv4`."""
        return {
            "reused_tokens": self.cached,
            "not_reused_because": self.missed or None,
            "drafted_tokens": self.drafted,
            "accepted_tokens": self.accepted,
        }
