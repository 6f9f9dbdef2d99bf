"""The prompt protocol's speed: encoding long conversations, streaming long completions.

    python benchmarks/protocol.py [--rounds 20] [--out benchmarks/results/protocol.json]

Twice the length should take twice the time. Peers, in the same rounds, are vLLM's encoder, where
its package, or its unpacked wheel, is on the path, and DeepSeek's library deepseek-recipe (native
code): `request` reads a chat request from JSON and writes its prompt, `render` only writes it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsv4.protocol import StreamParser, encode_messages, from_openai, parse_message

TOOL = {"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}
TURNS = (100, 200, 400)
LENGTHS = (10_000, 20_000, 40_000)
PROSE = "The quick brown fox, 12 <b>jumps</b> over\nthe lazy dog's path/to/den. "


def conversation(turns: int) -> list[dict[str, Any]]:
    """A tool conversation: each turn is a question, a call, its result and an answer."""
    out: list[dict[str, Any]] = [{"role": "system", "content": "Help.", "tools": [TOOL]}]
    for turn in range(turns):
        call = {"name": "shell", "arguments": json.dumps({"command": "ls -l", "timeout": turn})}
        out += [
            {"role": "user", "content": f"What is in folder {turn}?"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": PROSE,
                "reasoning": PROSE,
                "tool_calls": [{"id": f"c{turn}", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": f"c{turn}", "content": PROSE * 4},
            {"role": "assistant", "content": PROSE, "reasoning_content": "", "reasoning": ""},
        ]
    return out


def request(turns: int) -> str:
    """The same conversation as a client sends it."""
    messages = [{k: v for k, v in m.items() if k != "reasoning"} for m in conversation(turns)]
    del messages[0]["tools"]
    return json.dumps({"model": "DeepSeek-V4-Pro", "messages": messages, "tools": [TOOL]})


def completion(length: int) -> str:
    """Reasoning, an answer and a call that writes a file: a third each."""
    third = (PROSE * (length // len(PROSE) + 1))[: length // 3]
    call = {"name": "write", "arguments": json.dumps({"text": third, "n": 1})}
    reply: dict[str, Any] = {"role": "assistant", "content": third, "reasoning_content": third}
    reply |= {"tool_calls": [{"function": call}]}
    return encode_messages([reply], "thinking", context=[{"role": "user", "content": ""}])


def stream(text: str, mode: str) -> None:
    """In pieces of four characters."""
    parser = StreamParser("thinking", mode)
    for at in range(0, len(text), 4):
        parser.feed(text[at : at + 4])
    parser.finish()


def peer() -> Any:
    """vLLM's encoder, or None."""
    found = importlib.util.find_spec("vllm")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in Path(folder).rglob("deepseek_v4_encoding.py"):
            spec = importlib.util.spec_from_file_location("encoding", file)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None


def requests() -> dict[str, Callable[[], object]]:
    """Requests of 200 turns, by dsv4 and by DeepSeek's library where it is installed."""
    body = request(200)
    ours = from_openai(json.loads(body))
    out: dict[str, Callable[[], object]] = {
        "request 200 turns": lambda: from_openai(json.loads(body)).prompt(),
        "render 200 turns": ours.prompt,
    }
    if importlib.util.find_spec("deepseek_recipe") is None:
        return out
    import deepseek_recipe as recipe

    encoding, options = recipe.DeepseekV4Encoding(), recipe.ConversionOptions()

    def read() -> Any:
        return recipe.ChatCompletionRequest(body).convert(options).conversation

    talk = read()
    out["recipe request 200 turns"] = lambda: encoding.render_conversation(read()).prompt
    out["recipe render 200 turns"] = lambda: encoding.render_conversation(talk).prompt
    return out


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cases() -> dict[str, Callable[[], object]]:
    """Name → what is timed."""
    other = peer()
    out = requests()
    for turns in TURNS:
        talk = conversation(turns)
        out[f"encode {turns} turns"] = lambda talk=talk: encode_messages(talk, "thinking")  # type: ignore[misc]
        if other:
            out[f"vLLM {turns} turns"] = lambda talk=talk: other.encode_messages(talk, "thinking")  # type: ignore[misc]
    for length in LENGTHS:
        text = completion(length)
        out[f"parse {length}"] = lambda text=text: parse_message(text, "thinking")  # type: ignore[misc]
        for mode in ("strict", "tolerant"):
            out[f"{mode} {length}"] = lambda text=text, mode=mode: stream(text, mode)  # type: ignore[misc]
    return out


def main() -> None:
    """Rounds over all cases; the least time of each, as others use the machine too."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    todo = cases()
    times: dict[str, list[float]] = {name: [] for name in todo}
    for number in range(given.rounds + 1):
        for name, call in todo.items():
            times[name].append(seconds(call))
        print(f"round {number} of {given.rounds}", file=sys.stderr)
    least = {name: min(values[1:]) for name, values in times.items()}
    pieces = {length: -(-len(completion(length)) // 4) for length in LENGTHS}
    rows = [
        {"what": name, "ms": value * 1e3, "us_per_piece": None} for name, value in least.items()
    ]
    for row in rows:
        kind, size = str(row["what"]).split(" ")[:2]
        if kind in ("strict", "tolerant"):
            row["us_per_piece"] = least[str(row["what"])] * 1e6 / pieces[int(size)]
    report = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "rounds": given.rounds,
        "rows": rows,
    }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
