"""Many requests of many kinds against one server: what is answered, what is left behind.

    dsv4 serve nano --port 8766 --memory 300MiB &
    python benchmarks/soak.py --url http://127.0.0.1:8766 --requests 10000 --pid $!

Whole and streamed replies of four APIs, clients that leave in the middle, clients that give up at
once, bad bodies. Afterwards nothing runs or waits, every page is free or the prefix cache's, and
the server's memory has stopped growing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

WORDS = ["the", "sun", "gives", "light", "and", "heat", "to", "earth", "water", "what", "is", "a"]
BAD = [b"{", b"\xff\xfe", b'{"messages": 1}', b"[" * 500, b'{"model": "nano", "messages": [{}]}']
LEFT = ("running", "waiting", "free_slots", "free_pages", "pages", "prefix_pages", "failed")


class Client:
    """Sends requests of random kinds and counts what comes back."""

    def __init__(self, url: str, http: httpx.AsyncClient, seed: int):
        self.url, self.http, self.random = url, http, random.Random(seed)
        self.seen: Counter[str] = Counter()

    async def one(self) -> None:
        """One request."""
        kind = self.random.choice(
            [self.whole, self.streamed, self.left, self.given_up, self.bad, self.other]
        )
        try:
            answer = await kind()
        except httpx.HTTPError as error:
            answer = type(error).__name__
        self.seen[f"{kind.__name__} {answer}"] += 1

    def body(self, **more: Any) -> dict[str, Any]:
        text = " ".join(self.random.choices(WORDS, k=self.random.randrange(1, 120)))
        return {
            "model": "nano",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.random.randrange(1, 30),
            "thinking": {"type": self.random.choice(["enabled", "disabled"])},
        } | more

    async def post(self, path: str, **options: Any) -> int:
        return (await self.http.post(self.url + path, **options)).status_code

    async def whole(self) -> int:
        return await self.post("/v1/chat/completions", json=self.body())

    async def streamed(self) -> str:
        body, last = self.body(stream=True), ""
        async with self.http.stream("POST", self.url + "/v1/chat/completions", json=body) as got:
            async for line in got.aiter_lines():
                last = line or last
        return f"{got.status_code} {'whole' if last == 'data: [DONE]' else 'broken'}"

    async def left(self) -> int:
        body, lines = self.body(stream=True, max_tokens=4000), self.random.randrange(1, 8)
        async with self.http.stream("POST", self.url + "/v1/chat/completions", json=body) as got:
            async for _ in got.aiter_lines():
                lines -= 1
                if lines < 0:
                    break
        return got.status_code

    async def given_up(self) -> int:
        return await self.post("/v1/messages", json=self.body(max_tokens=3000), timeout=0.05)

    async def bad(self) -> int:
        return await self.post("/v1/chat/completions", content=self.random.choice(BAD))

    async def other(self) -> int:
        path, body = self.random.choice(
            [
                ("/v1/messages", self.body()),
                ("/v1/responses", {"model": "nano", "input": "hi", "max_output_tokens": 10}),
                ("/v1/completions", {"model": "nano", "prompt": "The", "max_tokens": 9, "n": 2}),
            ]
        )
        return await self.post(path, json=body)


async def run(url: str, requests: int, clients: int, pid: int | None) -> dict[str, Any]:
    """`requests` requests by `clients` at a time, and what the server says of itself then."""
    limits = httpx.Limits(max_connections=2 * clients)
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        client, numbers = Client(url, http, 0), iter(range(requests))
        memory = [_resident(pid)]
        began = time.perf_counter()

        async def work() -> None:
            for number in numbers:
                await client.one()
                if number % (requests // 10 or 1) == 0:
                    memory.append(_resident(pid))

        await asyncio.gather(*(work() for _ in range(clients)))
        seconds = time.perf_counter() - began
        await asyncio.sleep(2)
        lines = (await http.get(url + "/metrics")).text.splitlines()
    left = {
        name: float(line.split()[-1])
        for name in LEFT
        for line in lines
        if line.startswith((f"dsv4_engine_{name} ", f"dsv4_engine_{name}_total "))
    }
    return {
        "requests": requests,
        "seconds": round(seconds, 1),
        "answers": dict(sorted(client.seen.items())),
        "left": left,
        "resident_mib": memory,
    }


def _resident(pid: int | None) -> int | None:
    if pid is None:
        return None
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8766")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--pid", type=int, help="The server's process, to see its memory.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = asyncio.run(run(args.url, args.requests, args.clients, args.pid))
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
