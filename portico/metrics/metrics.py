"""The metrics of one server, in a Prometheus registry of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from portico.metrics.collectors import Guarded

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OTHER = "other"
"""The label value that replaces values a client has made up."""
METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "WEBSOCKET"})


class Metrics:
    """The metrics of one server. All transports share one instance; other parts add collectors of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._private = CollectorRegistry()
        self._requests = Counter(
            "portico_http_requests_total",
            "Requests and WebSockets that have ended, by route template; a WebSocket's status is its close code.",
            ("route", "method", "status"),
            registry=None,
        )
        self._request_seconds = Histogram(
            "portico_http_request_seconds",
            "Seconds until the answer to a request began, or a WebSocket was accepted.",
            ("route", "method"),
            buckets=SECONDS,
            registry=None,
        )
        self._wrong_credentials = Counter(
            "portico_wrong_credentials_total",
            "Wrong tokens and tickets. Their status is 429 where too many had come from the same address.",
            ("status",),
            registry=None,
        )
        self._streams = Gauge("portico_streams", "Open streams of events.", ("kind",), registry=None)
        self.add(self._requests, self._request_seconds, self._wrong_credentials, self._streams)
        for status in ("401", "429"):
            self._wrong_credentials.labels(status)
        for kind in ("sse", "websocket"):
            self._streams.labels(kind)

    def add(self, *collectors: Collector) -> None:
        """Show these too: metrics of `prometheus_client`, made with ``registry=None``, or collectors of any kind.

        Raises ValueError if a metric of that name already exists.
        """
        for collector in collectors:
            self._registry.register(Guarded(collector))

    def request(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count a request that has ended; ``seconds`` is None if it had no answer."""
        method = method if method in METHODS else OTHER
        known = 100 <= status < 600 or 1000 <= status < 1016 or 4400 <= status < 4500
        self._requests.labels(route, method, str(status) if known else OTHER).inc()
        if seconds is not None:
            self._request_seconds.labels(route, method).observe(seconds)

    def wrong_credentials(self, *, slowed: bool) -> None:
        """Count wrong credentials; ``slowed``: too many had come from the same address."""
        self._wrong_credentials.labels("429" if slowed else "401").inc()

    @contextmanager
    def stream(self, kind: str) -> Iterator[None]:
        """Count one more stream while the body runs; ``kind`` is sse or websocket."""
        with self._streams.labels(kind).track_inprogress():
            yield

    def add_private(self, *collectors: Collector) -> None:
        """Show these to admins, and to others the series whose only label, ``principal``, is their own name."""
        for collector in collectors:
            self._private.register(Guarded(collector))

    def text(self, principal: str, *, admin: bool) -> bytes:
        """Return all metrics that a principal may see in Prometheus' text format, version 0.0.4, UTF-8."""
        private = generate_latest(self._private)
        if not admin:
            own = b'{principal="' + _escaped(principal).encode() + b'"} '
            lines = private.splitlines(keepends=True)
            private = b"".join(line for line in lines if line.startswith(b"#") or own in line)
        return generate_latest(self._registry) + private


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
