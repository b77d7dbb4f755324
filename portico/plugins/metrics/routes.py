"""``GET /metrics``. It needs credentials like everything else, and reveals nothing about a session's content."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from portico.core.principal import Principal
from portico.core.sessions import Sessions
from portico.metrics.metrics import Metrics
from portico.plugins.metrics.engine_metrics import engine_families
from portico.transports.operation import Answer, operation

TEXT = "text/plain; version=0.0.4; charset=utf-8"


class MetricsRoutes:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told_of: Sessions | None = None

    def routes(self, engine: Sessions) -> Sequence[BaseRoute]:
        if self._told_of is None:  # each transport calls this; the engine is the same
            self._told_of = engine
            self._metrics.add(*engine_families(engine))
        return [Route("/metrics", self._get, methods=["GET"])]

    @operation("readMetrics", "Numbers for Prometheus", Answer(200, "Its text format.", str, "text/plain"))
    async def _get(self, request: Request) -> Response:
        principal: Principal = request.state.principal
        return Response(
            self._metrics.text(principal.name, admin=principal.admin),
            headers={"cache-control": "no-store"},
            media_type=TEXT,
        )
