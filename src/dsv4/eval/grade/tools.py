"""Calls of tools: the same names and arguments in the same order; or the state that they left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dsv4.eval.grade.answer import Answer, Verdict, decided, once, unparsed


def calls(target: Sequence[Mapping[str, Any]], answer: Answer) -> Verdict:
    """`target`: calls as {"name", "arguments": object}. A call in the text is none."""
    if not answer.calls:
        if not target:
            return decided(True, "no call, and none is right")
        return unparsed("no call was made")
    said = []
    for call in answer.calls:
        try:
            arguments = json.loads(call["arguments"], object_pairs_hook=once)
        except (ValueError, RecursionError):
            return unparsed(f"the arguments of {call['name']} are no JSON")
        said.append({"name": call["name"], "arguments": arguments})
    right = [{"name": one["name"], "arguments": one["arguments"]} for one in target]
    return decided(
        _exact(said) == _exact(right), f"called {json.dumps(said, ensure_ascii=False)[:120]}"
    )


def state(target: Any, answer: Answer) -> Verdict:
    """`target`: the state that an agent should leave; what it says of it is nothing."""
    right = _exact(answer.state) == _exact(target)
    return decided(right, f"left {json.dumps(answer.state, ensure_ascii=False)[:120]}")


def _exact(found: Any) -> str:
    """A text that differs where values do: 1 is not true, nor "1"; the order of names is none."""
    return json.dumps(found, sort_keys=True, ensure_ascii=False)
