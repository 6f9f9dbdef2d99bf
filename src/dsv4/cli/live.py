"""A line in the terminal that says what a server does, twice a second."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping

from dsv4.server.service import Service

PERIOD = 0.5


class Live:
    """Shows itself while it runs in a terminal; elsewhere it says nothing."""

    def __init__(self, service: Service):
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, name="dsv4-live", daemon=True)

    def begin(self) -> None:
        """Show it, if somebody looks."""
        if sys.stderr.isatty():
            self._thread.start()

    def end(self) -> None:
        """Take it away."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _show(self) -> None:
        from rich.console import Console
        from rich.live import Live as Region
        from rich.text import Text

        before, then = self._numbers(), time.monotonic()
        with Region(console=Console(stderr=True), transient=True, auto_refresh=False) as region:
            while not self._over.wait(PERIOD):
                now, numbers = time.monotonic(), self._numbers()
                shown = line(numbers, before, now - then, self._service.metrics.requests)
                region.update(Text(shown, style="dim", overflow="ellipsis"), refresh=True)
                before, then = numbers, now

    def _numbers(self) -> Mapping[str, float]:
        return self._service.engine.statistics()


def line(
    now: Mapping[str, float], before: Mapping[str, float], seconds: float, requests: int
) -> str:
    """`2 running, 1 waiting · 120 tokens/s · 83% of 5,120 prompt tokens reused · 17 requests`."""

    def rate(name: str) -> float:
        return (now.get(name, 0.0) - before.get(name, 0.0)) / max(seconds, 1e-9)

    prompt, cached = now.get("prompt_tokens", 0.0), now.get("cached_tokens", 0.0)
    parts = [
        f"{now.get('running', 0):.0f} running, {now.get('waiting', 0):.0f} waiting",
        f"{rate('generated_tokens'):,.0f} tokens/s",
        f"{cached / prompt if prompt else 0:.0%} of {prompt:,.0f} prompt tokens reused",
        f"{requests:,} requests",
    ]
    drafted = now.get("drafted_tokens", 0.0)
    if drafted:
        parts.append(f"{now.get('accepted_tokens', 0.0) / drafted:.0%} of drafts accepted")
    return " · ".join(parts)
