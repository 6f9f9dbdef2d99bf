"""What a server has done, for Prometheus (text format 0.0.4) and for a status line."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from dsv4.engine.request import EngineLike
from dsv4.server.exchange import Exchange

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Histogram:
    """Seconds, counted by upper bounds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        """In Prometheus' format."""
        total = 0
        for bound, count in zip((*BOUNDS, float("inf")), self._counts, strict=True):
            total += count
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f'{name}_bucket{{le="{shown}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """Counts of requests and tokens; the engine's own numbers are asked when they are needed."""

    def __init__(self, engine: EngineLike):
        self._engine = engine
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[str] = Counter()
        self._first, self._whole = Histogram(), Histogram()
        self.began = time.time()
        self.open = 0

    def answered(self, path: str, status: int) -> None:
        """A request was answered, or its stream was begun."""
        with self._lock:
            self._requests[path, status] += 1

    def exchanged(self, exchange: Exchange) -> None:
        """A request of tokens came to its end, or was left."""
        counts, now = exchange.counts, time.monotonic()
        with self._lock:
            self._tokens["prompt"] += counts.prompt
            self._tokens["cached"] += counts.cached
            self._tokens["generated"] += counts.completion
            self._tokens["drafted"] += counts.drafted
            self._tokens["accepted"] += counts.accepted
            if exchange.first is not None:
                self._first.add(exchange.first - exchange.began)
            self._whole.add(now - exchange.began)

    @property
    def requests(self) -> int:
        """Requests that were answered."""
        with self._lock:
            return sum(self._requests.values())

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of requests that came to their end, by kind."""
        with self._lock:
            return dict(self._tokens)

    def text(self) -> str:
        """All of it, for Prometheus."""
        with self._lock:
            return "\n".join([*self._own(), *self._of_engine()]) + "\n"

    def _own(self) -> Iterator[str]:
        yield from _head("dsv4_requests_total", "counter", "Requests by path and status.")
        for (path, status), count in sorted(self._requests.items()):
            yield f'dsv4_requests_total{{path="{path}",status="{status}"}} {count}'
        yield from _head("dsv4_requests_open", "gauge", "Requests that are being answered.")
        yield f"dsv4_requests_open {self.open}"
        for kind in ("prompt", "cached", "generated", "drafted", "accepted"):
            name = f"dsv4_{kind}_tokens_total"
            yield from _head(name, "counter", f"Tokens: {kind}.")
            yield f"{name} {self._tokens[kind]}"
        for name, help_text, histogram in (
            ("dsv4_time_to_first_token_seconds", "Until the first token.", self._first),
            ("dsv4_request_seconds", "Until the whole reply.", self._whole),
        ):
            yield from _head(name, "histogram", help_text)
            yield from histogram.lines(name)
        yield from _head("dsv4_start_time_seconds", "gauge", "When the server began.")
        yield f"dsv4_start_time_seconds {self.began:.3f}"

    def _of_engine(self) -> Iterator[str]:
        grow = self._engine.totals()
        for key, value in self._engine.statistics().items():
            kind = "counter" if key in grow else "gauge"
            name = f"dsv4_engine_{key}" + "_total" * (kind == "counter")
            yield from _head(name, kind, f"Of the engine: {key.replace('_', ' ')}.")
            yield f"{name} {value:.17g}"
        backends = self._engine.backends()
        for key, kind in (
            ("live", "gauge"),
            ("running", "gauge"),
            ("requests", "counter"),
            ("failures", "counter"),
        ):
            name = f"dsv4_backend_{key}" + "_total" * (kind == "counter")
            if backends:
                yield from _head(name, kind, f"Of each backend: {key}.")
            for one in backends:
                yield f'{name}{{backend="{one.url}"}} {int(getattr(one, key))}'


def _head(name: str, kind: str, text: str) -> Sequence[str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"
