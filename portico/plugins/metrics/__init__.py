"""The routes ``metrics``: ``GET /metrics``, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.plugins.context import Context
    from portico.transports.base import Routes


def _create(context: Context) -> Routes:
    from portico.plugins.metrics.routes import MetricsRoutes

    return MetricsRoutes(context.metrics)


@hookimpl
def portico_routes() -> Mapping[str, Callable[[Context], Routes | None]]:
    return {"metrics": _create}
