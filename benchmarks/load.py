"""dsv4's server against llama.cpp's under load: the same checkpoint, threads, prompts and clients.

    python benchmarks/load.py 22M CHECKPOINT GGUF --llama-server PATH [--rounds 3] [--out FILE]

1, 8 and 32 clients ask /v1/completions for streams, each the next as soon as one has ended: 128
tokens of random words in, 64 tokens out, end tokens ignored. Every prompt is another one, so no
prefix is known. Both servers run all the time and take turns; what is reported is the median over
rounds of each side's generated tokens/s and of the rounds' ratios, and the time to the first event
over all requests. `cpu` is what a generated token costs in processor time, the prompt's reading
included: it tells more than the clock on a machine that others use. docs/llama_cpp.md says how to
come by CHECKPOINT, GGUF and llama-server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from load_client import Heard, run
from shapes import SHAPES

import dsv4

PROMPT, REPLY = 128, 64  # tokens
CONTEXT = 256  # tokens of each of llama.cpp's slots
NAME = "model"
BOS = "<｜begin▁of▁sentence｜>"  # llama.cpp adds none by itself
SIDES = ("dsv4", "llama.cpp")
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
    "cuts": {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05},
}
REQUESTS = {1: 8, 8: 3, 32: 2}  # of each client in a round
LLAMA = "-fa on --cache-ram 0 --ctx-checkpoints 0 --no-slots"


class Prompts:
    """Texts of BOS and random words, PROMPT tokens long; never the same twice."""

    def __init__(self, checkpoint: Path, seed: int = 0):
        self.tokenizer, self.random = dsv4.Tokenizer.load(checkpoint), random.Random(seed)
        ids = range(self.tokenizer.vocab_size)
        words = (self.tokenizer.token_bytes(i) for i in ids if not self.tokenizer.control_text(i))
        self.words = [
            w.decode() for w in words if w.isascii() and w[:1] == b" " and w[1:].isalpha()
        ]

    def next(self) -> str:
        """One more."""
        while True:
            text = BOS + "".join(self.random.choices(self.words, k=PROMPT - 1))
            if len(self.tokenizer.encode(text, special=True)) == PROMPT:
                return text

    def bodies(self, clients: int, each: int, sampling: str) -> list[list[bytes]]:
        """Requests of each client."""
        return [[self._body(sampling) for _ in range(each)] for _ in range(clients)]

    def _body(self, sampling: str) -> bytes:
        body = {"model": NAME, "prompt": self.next(), "max_tokens": REPLY, "ignore_eos": True}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        body |= {"seed": self.random.randrange(1 << 31)}
        return json.dumps(body | SAMPLINGS[sampling]).encode()


@dataclass
class Server:
    """A server that runs, and what was measured of it."""

    port: int
    pid: int
    heard: list[Heard] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # of rounds, tokens/s
    cpu: list[float] = field(default_factory=list)  # its own, ms a token
    client: list[float] = field(default_factory=list)  # the client's, ms a token

    def spent(self) -> float:
        """Seconds of processor time that it has taken so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def round(self, bodies: Sequence[Sequence[bytes]]) -> None:
        """Let clients ask, and note it. Raises RuntimeError for other work than was asked for."""
        began, own = self.spent(), time.process_time()
        seconds, replies = asyncio.run(run(self.port, bodies))
        for reply in replies:
            if (reply.prompt_tokens, reply.tokens) != (PROMPT, REPLY):
                raise RuntimeError(f"{reply.prompt_tokens} tokens read, {reply.tokens} written")
        tokens = REPLY * len(replies)
        self.heard += replies
        self.rates.append(tokens / seconds)
        self.cpu.append((self.spent() - began) / tokens * 1e3)
        self.client.append((time.process_time() - own) / tokens * 1e3)

    def report(self) -> dict[str, Any]:
        """Medians over the rounds, shares of all requests."""
        firsts = sorted(reply.first * 1e3 for reply in self.heard)
        return {
            "tokens/s": statistics.median(self.rates),
            "first ms p50": _share(firsts, 0.50),
            "first ms p99": _share(firsts, 0.99),
            "cpu ms": statistics.median(self.cpu),
            "client cpu ms": statistics.median(self.client),
            "rates": self.rates,
        }


@contextmanager
def serving(command: Sequence[str], port: int) -> Iterator[Server]:
    """A server from when it answers until the block's end."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 120
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise RuntimeError(f"{shlex.join(command)} does not serve:\n{log.read()}")
                time.sleep(0.1)
            yield Server(port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def commands(args: argparse.Namespace, clients: int, ports: dict[str, int]) -> dict[str, list[str]]:
    """How the two are started: as many threads for each, a slot for each client."""
    ours = (
        f"serve {args.checkpoint} --name {NAME} --port {ports['dsv4']} --threads {args.threads} "
        f"--slots {clients}"
    )
    theirs = (
        f"-m {args.gguf} --port {ports['llama.cpp']} -t {args.threads} -tb {args.threads} --no-ui "
        f"--parallel {clients} -c {clients * CONTEXT} {args.llama_options}"
    )
    cli = [sys.executable, "-m", "dsv4"]
    return {
        "dsv4": [*cli, *shlex.split(ours), *shlex.split(args.dsv4_options)],
        "llama.cpp": [str(args.llama_server), *shlex.split(theirs)],
    }


def measure(args: argparse.Namespace, clients: int, prompts: Prompts) -> list[dict[str, Any]]:
    """A row for each way of sampling."""
    ports = {side: _free_port() for side in SIDES}
    command = commands(args, clients, ports)
    sides = [side for side in SIDES if args.only_side in (None, side)]
    with ExitStack() as stack:
        servers = {s: stack.enter_context(serving(command[s], ports[s])) for s in sides}
        return [_row(args, servers, clients, prompts, name) for name in args.sampling]


def _row(
    args: argparse.Namespace,
    running: dict[str, Server],
    clients: int,
    prompts: Prompts,
    sampling: str,
) -> dict[str, Any]:
    servers = {side: Server(server.port, server.pid) for side, server in running.items()}
    for server in running.values():
        server.round(prompts.bodies(min(clients, 4), 1, sampling))  # warms up
    for turn in range(args.rounds):
        bodies = prompts.bodies(clients, args.requests or REQUESTS[clients], sampling)
        order = list(servers.values())
        for server in order if turn % 2 == 0 else order[::-1]:
            server.round(bodies)
    row: dict[str, Any] = {"clients": clients, "sampling": sampling}
    row |= {side: server.report() for side, server in servers.items()}
    if len(servers) == 2:
        pairs = zip(*(server.rates for server in servers.values()), strict=True)
        row["ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
    _print(row)
    return row


def _share(rising: Sequence[float], share: float) -> float:
    """The least value that `share` of them do not exceed."""
    return rising[max(0, -int(-share * len(rising) // 1) - 1)]


def _print(row: dict[str, Any]) -> None:
    print(f"{row['clients']} clients, {row['sampling']}", end="")
    print(f": ×{row['ratio']:.2f}" if "ratio" in row else "")
    for side in SIDES:
        if side in row:
            print(
                f"  {side:9} {row[side]['tokens/s']:7.0f} tokens/s, first token after "
                f"{row[side]['first ms p50']:.0f} ms (p99 {row[side]['first ms p99']:.0f}); "
                f"processor {row[side]['cpu ms']:.2f} ms a token, client's "
                f"{row[side]['client cpu ms']:.3f}",
                flush=True,
            )


def main() -> None:
    """Measure, print, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--llama-options", default=LLAMA)
    parser.add_argument("--dsv4-options", default="")
    parser.add_argument("--clients", type=int, nargs="+", choices=REQUESTS, default=list(REQUESTS))
    parser.add_argument("--sampling", nargs="+", choices=SAMPLINGS, default=["greedy", "sampled"])
    parser.add_argument("--requests", type=int, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-side", choices=SIDES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    prompts = Prompts(args.checkpoint)
    rows = [row for clients in args.clients for row in measure(args, clients, prompts)]
    if args.out:
        machine = f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}"
        report = {"shape": args.shape, "machine": machine, "rounds": args.rounds}
        report |= {"prompt": PROMPT, "reply": REPLY}
        report |= {"llama.cpp": args.llama_options, "rows": rows}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
