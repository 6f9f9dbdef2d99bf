"""The loop of an agent: ask, call what it calls, tell the results, ask again.

    stopped by   answered  a reply without calls: the answer
                 steps     as many replies as it may have, and it still calls
                 context   what was said fills the window
                 cut       a reply ran into its own limit of tokens
                 refused   the server declined
                 error     the environment failed, by no fault of the agent

Reasoning goes back with the calls that it led to, so that the model reasons on between its calls:
the protocol drops none of it where a conversation has tools.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dsv4.eval.agent.environment import Environment, EnvironmentFaultError
from dsv4.eval.subject import Ask, Reply, Subject, TooLongError

LEAST = 16  # tokens that a reply needs at all
STOPS = {"length": "cut", "content_filter": "refused"}


@dataclass(frozen=True)
class Limits:
    """The report's. `discard`: where the window is full, all calls and results are forgotten and
    the question is begun anew, in the same count of steps."""

    steps: int = 500
    context: int = 512 * 1024
    discard: bool = False


def play(
    subject: Subject, environment: Environment, ask: Ask, limits: Limits, most: int | None
) -> dict[str, Any]:
    """What a log holds of an agent at work. `ask` is its first question; `most`: tokens of each
    reply, None: what the window leaves. Raises TooLongError if the question alone does not fit."""
    assert not isinstance(ask.prompt, str)
    ask = replace(ask, tools=[tool.schema for tool in environment.tools])
    said: list[Mapping[str, Any]] = []
    steps: list[dict[str, Any]] = []
    stopped, discarded = "steps", 0
    while len(steps) < limits.steps:
        reply, limit = _next(subject, ask, limits, [*ask.prompt, *said], len(steps), most)
        if reply is not None:
            steps.append(reply.logged)
        elif not said:
            raise TooLongError(f"the question leaves no room in a window of {limits.context:,}")
        if reply is None or (reply.finish_reason == "length" and limit != most):
            if not (limits.discard and said):
                stopped = "context"
                break
            said, discarded = [], discarded + 1
            continue
        if reply.finish_reason in STOPS or not reply.calls:
            stopped = STOPS.get(reply.finish_reason, "answered")
            break
        try:
            steps[-1]["calls"] = [_called(environment, call) for call in reply.calls]
        except EnvironmentFaultError as error:
            return _log(steps, "error", discarded) | {"failed": str(error)}
        said += _told(steps[-1], len(steps))
    return _log(steps, stopped, discarded) | {"state": environment.state()}


def _next(
    subject: Subject,
    ask: Ask,
    limits: Limits,
    messages: Sequence[Mapping[str, Any]],
    number: int,
    most: int | None,
) -> tuple[Reply | None, int]:
    """The reply to all that was said, None where the window leaves none; its limit of tokens."""
    asked = replace(ask, prompt=messages, seed=ask.seed + number)
    window = min(limits.context, subject.context or limits.context)
    left = window - subject.count(asked)
    if left < LEAST:
        return None, 0
    limit = left if most is None else min(most, left)
    try:
        return subject.generate(replace(asked, max_tokens=limit)), limit
    except TooLongError:
        return None, 0


def _called(environment: Environment, call: Mapping[str, str]) -> dict[str, Any]:
    result = environment.do(call["name"], call["arguments"])
    return dict(call) | {"result": result.text, "wrong": result.wrong}


def _told(step: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """A step as the messages that the next one begins with; ids tell which call a result is of."""
    ids = [f"call_{number}_{place}" for place in range(len(step["calls"]))]
    calls = [
        {"id": name, "type": "function", "function": {k: call[k] for k in ("name", "arguments")}}
        for name, call in zip(ids, step["calls"], strict=True)
    ]
    said: dict[str, Any] = {"role": "assistant", "content": step["text"], "tool_calls": calls}
    if step["reasoning"]:
        said["reasoning_content"] = step["reasoning"]
    results = [
        {"role": "tool", "tool_call_id": name, "content": call["result"]}
        for name, call in zip(ids, step["calls"], strict=True)
    ]
    return [said, *results]


def _log(steps: Sequence[Mapping[str, Any]], stopped: str, discarded: int) -> dict[str, Any]:
    """Of the steps: what was answered, by what it stopped, and the tokens of all."""
    last = steps[-1]
    ends = {"answered": "stop", "refused": "content_filter"}
    answered = stopped in ends
    tokens = Counter[str]()
    for step in steps:
        tokens.update({key: step[key] for key in step if key.endswith("_tokens")})
    return {
        "text": last["text"] if answered else "",
        "reasoning": last["reasoning"] if answered else "",
        "calls": [],
        "finish_reason": ends.get(stopped, "length"),
        "stopped": stopped,
        "discarded": discarded,
        "steps": len(steps),
        "trace": list(steps),
        **tokens,
    }
