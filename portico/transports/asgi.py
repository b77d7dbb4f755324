"""The ASGI app that every HTTP-speaking transport serves."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Scope

from portico.core.engine import Engine
from portico.core.errors import Unavailable
from portico.core.events import encode_json
from portico.core.principal import Callers
from portico.metrics.metrics import OTHER, Metrics
from portico.transports.access import AccessLog, Ended
from portico.transports.auth import Authentication
from portico.transports.base import Routes
from portico.transports.endpoint import no_such_path, route
from portico.transports.hosts import HostCheck
from portico.transports.origins import Cors, OriginCheck
from portico.transports.problems import Problems
from portico.transports.sessions import Sessions
from portico.transports.sse import EventRoutes
from portico.transports.streams import Streams
from portico.transports.websocket import WebSocketRoutes

log = logging.getLogger("portico.transports")


@dataclass(frozen=True, slots=True)
class Api:
    """What is served: ``prefix`` is the path that the API lies under, such as ``/claude``; ``max_body`` is in bytes;
    ``hosts`` as `HostCheck` has them; ``origins`` are those of other servers' web pages. ``rest`` is all but WebSocket,
    and goes with the ``routes`` of plugins, which come behind all others. ``metrics`` is where requests are counted.
    """

    prefix: str
    max_body: int
    hosts: Collection[str]
    origins: Collection[str]
    rest: bool = True
    routes: Mapping[str, Routes] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)


def create_app(engine: Engine, callers: Callers, streams: Streams, api: Api) -> ASGIApp:
    routes: list[BaseRoute] = [*WebSocketRoutes(engine, streams, callers, api.prefix).routes(), *_health(engine)]
    if api.rest:
        routes += Sessions(engine, api.prefix, api.max_body).routes()
        routes += EventRoutes(engine, streams, api.prefix, api.max_body).routes()
        routes += _of_plugins(engine, api.routes)
    # Starlette's app class would answer errors itself, in its own way.
    router = Router(routes, redirect_slashes=False, default=no_such_path)
    checked = OriginCheck(Authentication(router, callers), api.origins, f"{api.prefix}/stream/")
    logged = Cors(Problems(HostCheck(checked, api.hosts)), api.origins)
    return AccessLog(logged, _counting(dict(_templates(routes)), api.metrics))


def _templates(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[int, str]]:
    """What a route leaves in the scope, by its identity, and the template of its path."""
    for each in routes:
        path = prefix + getattr(each, "path", "")
        yield id(getattr(each, "endpoint", getattr(each, "app", each))), path or "/"
        yield from _templates(getattr(each, "routes", None) or (), path)


def _counting(templates: Mapping[int, str], metrics: Metrics) -> Ended:
    def ended(scope: Scope, status: int, began: float | None) -> None:
        template = templates.get(id(scope.get("endpoint")), OTHER)
        metrics.request(template, scope.get("method", "WEBSOCKET"), status, began)

    return ended


def _of_plugins(engine: Engine, plugins: Mapping[str, Routes]) -> Iterator[BaseRoute]:
    for name, plugin in plugins.items():
        try:
            yield from plugin.routes(engine)
        except Exception:
            log.exception("the routes %s are not served", name)


def _health(engine: Engine) -> list[Route]:
    async def alive(request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def ready(request: Request) -> Response:
        if reasons := engine.readiness():
            raise Unavailable("; ".join(reasons), code="not_ready", reasons=reasons)
        body = {"status": "ok", "failed": engine.failed} if engine.failed else {"status": "ok"}
        return Response(encode_json(body), media_type="application/json")

    return [route("/healthz", GET=alive), route("/readyz", GET=ready)]
