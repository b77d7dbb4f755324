"""The numbers of one server, whoever counts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from portico.metrics.families import Counter, Family, Gauge, Histogram, exposition

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
OTHER = "other"
"""In place of label values that a client has made up."""
METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "WEBSOCKET"})


class Metrics:
    """All transports count into the same one. `add` is for further families, of whoever has any."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._requests = Counter(
            "portico_http_requests_total",
            "Requests and WebSockets that have ended, by route template; a WebSocket's status is its close code.",
            "route",
            "method",
            "status",
        )
        self._request_seconds = Histogram(
            "portico_http_request_seconds",
            "Until the answer to a request began, or a WebSocket was accepted.",
            "route",
            "method",
            bounds=SECONDS,
        )
        self._streams = Gauge("portico_streams", "Open streams of events.", "kind")
        for family in (self._requests, self._request_seconds, self._streams):
            self.add(family)
        for kind in ("sse", "websocket"):
            self._streams.add(kind, by=0)

    def add(self, *families: Family) -> None:
        """Raises ValueError where there is one of that name."""
        for family in families:
            if family.name in self._families:
                raise ValueError(f"there is a metric {family.name} already")
            self._families[family.name] = family

    def request(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """One has ended; ``seconds`` is None where it had no answer."""
        method = method if method in METHODS else OTHER
        known = 100 <= status < 600 or 1000 <= status < 1016 or 4400 <= status < 4500
        self._requests.add(route, method, str(status) if known else OTHER)
        if seconds is not None:
            self._request_seconds.add(seconds, route, method)

    @contextmanager
    def stream(self, kind: str) -> Iterator[None]:
        """In here there is one stream more; ``kind`` is sse or websocket."""
        self._streams.add(kind)
        try:
            yield
        finally:
            self._streams.add(kind, by=-1)

    def text(self) -> str:
        """In Prometheus' text format."""
        return exposition(sorted(self._families.values(), key=lambda family: family.name))
