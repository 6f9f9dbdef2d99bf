"""`dsv4 serve` as a process: it listens, answers, and ends as it is told."""

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest

from dsv4.cli.live import line

from .command import call, command, environment, one_line

SMALL = ("serve", "--port", "0", "--memory", "64MiB", "--slots", "4")


@contextmanager
def serving(*options, **more):
    process = subprocess.Popen(
        command(*SMALL, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )
    try:
        said = process.stdout.readline()
        found = re.fullmatch(r"(.+) at (http://\S+)\n", said)
        assert found, said + process.stderr.read()
        yield process, found[1], found[2]
    finally:
        process.kill()
        process.wait(20)


def ask(url, **more):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    return httpx.post(f"{url}/v1/chat/completions", json=body | more, timeout=60)


def test_it_answers_and_ends_at_a_signal(tmp_path):
    options = ("--name", "m", "--name", "other", "--no-thinking", "--api-key", "k")
    options += ("--cache", str(tmp_path), "--cache-per-hour", "1KiB", "--period", "256")
    with serving(*options, "--revision", "2026-07") as (process, name, url):
        assert name == "m" and ask(url).status_code == 401
        headers = {"Authorization": "Bearer k"}
        models = httpx.get(f"{url}/v1/models", headers=headers).json()["data"]
        assert [model["id"] for model in models] == ["m", "other"]
        body = {"model": "other", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert 1 <= reply.json()["usage"]["completion_tokens"] <= 5
        count = httpx.post(
            f"{url}/tokenize",
            json={"messages": body["messages"], "reasoning_effort": "high"},
            headers=headers,
        )
        assert count.json()["count"] > 50  # the July text of high
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
        assert process.stderr.read() == ""
    assert list(tmp_path.glob("*.sqlite")) and not list(tmp_path.rglob("*.state"))  # 1 KiB


def test_ctrl_c_finishes_what_runs():
    with serving("--any-model", "--no-thinking", DSV4_API_KEY="") as (process, name, url):
        assert name == "nano"
        with httpx.stream(
            "POST",
            f"{url}/v1/completions",
            json={"model": "x", "prompt": "Once", "max_tokens": 300, "stream": True},
            timeout=60,
        ) as response:
            pieces = response.iter_text()
            said = next(pieces)
            process.send_signal(signal.SIGINT)
            said += "".join(pieces)
        assert said.endswith("data: [DONE]\n\n")
        assert process.wait(30) == 130


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "1KiB"], "bytes are too few"),
        (["--memory", "x"], "--memory x: must be a size"),
        (["nowhere"], "nowhere"),
        (["--revision", "2020-01"], "2020-01"),
        (["--period", "100"], "period = 100: must be a multiple of 128"),
        (["--cache-per-hour", "1GiB"], "name it with --cache"),
        (["--api-key", ""], "--api-key is empty"),
        (["--name", ""], "--name is empty"),
    ],
)
def test_what_is_refused(options, said):
    assert said in one_line(call("serve", "--port", "0", *options))


def test_a_port_that_is_taken():
    with serving() as (_, _, url):
        port = url.rsplit(":", 1)[1]
        result = call(*SMALL, "--port", port)
        assert result.returncode == 2 and "take another --port" in result.stderr.decode()


def test_the_live_line():
    before = {"generated_tokens": 10.0}
    now = {"running": 2, "waiting": 1, "generated_tokens": 130, "prompt_tokens": 200}
    now |= {"cached_tokens": 50, "drafted_tokens": 10, "accepted_tokens": 4}
    assert line(now, before, 0.5, 7) == (
        "2 running, 1 waiting · 240 tokens/s · 25% of 200 prompt tokens reused · 7 requests"
        " · 40% of drafts accepted"
    )
    assert "0% of 0 prompt tokens" in line({}, {}, 0.5, 0)


def test_the_live_line_in_a_terminal():
    import pty

    parent, child = pty.openpty()
    process = subprocess.Popen(
        command(*SMALL), stdout=child, stderr=child, env=environment(COLUMNS="120")
    )
    os.close(child)
    try:
        said, end = b"", time.monotonic() + 60
        while b"tokens/s" not in said and time.monotonic() < end:
            said += os.read(parent, 4096)
        assert b"0 running, 0 waiting" in said
    finally:
        process.kill()
        process.wait(20)
        os.close(parent)
