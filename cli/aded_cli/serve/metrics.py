"""What /metrics says: counts and times of requests and answers, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

if TYPE_CHECKING:
    from aded_local.api import Stats

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Buckets of times: from a small model's first token to a long answer behind a long line. Chosen."""

RATES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""Buckets of tokens per second. Chosen."""


class Metrics:
    """The figures of one server. Any thread may add to them."""

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "aded_requests", "Requests by route and HTTP status.", ["route", "status"], registry=registry
        )
        self._tokens = Counter(
            "aded_tokens",
            "Tokens by kind: prompt, reused (of the prompt, from the cache), generated, drafted, accepted.",
            ["kind"],
            registry=registry,
        )
        self._passes = Counter("aded_passes", "Passes of the model after prefill.", registry=registry)
        self._cancelled = Counter(
            "aded_hangups", "Requests whose client left before the answer's end.", registry=registry
        )
        self._first = Histogram(
            "aded_first_token_seconds",
            "From an answer's turn to its first token.",
            buckets=SECONDS,
            registry=registry,
        )
        self._waited = Histogram(
            "aded_waited_seconds", "Time in the line.", buckets=SECONDS, registry=registry
        )
        self._rate = Histogram(
            "aded_tokens_per_second",
            "Of each answer, after its first token.",
            buckets=RATES,
            registry=registry,
        )

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Say a value as it is whenever somebody asks."""
        Gauge(name, meaning, registry=self._registry).set_function(value)

    def requested(self, route: str, status: int) -> None:
        """A request was answered or refused."""
        self._requests.labels(route, str(status)).inc()

    def hung_up(self) -> None:
        """A client left before the end of its answer."""
        self._cancelled.inc()

    def answered(self, stats: Stats, waited: float) -> None:
        """An answer has ended, which had waited so many seconds in the line."""
        counts = {
            "prompt": stats.prompt_tokens,
            "reused": stats.reused_tokens,
            "generated": stats.generated_tokens,
            "drafted": stats.drafted,
            "accepted": stats.accepted,
        }
        for kind, count in counts.items():
            self._tokens.labels(kind).inc(count)
        self._passes.inc(stats.target_passes)
        self._first.observe(stats.time_to_first_token)
        self._waited.observe(waited)
        if stats.tokens_per_second > 0:
            self._rate.observe(stats.tokens_per_second)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
