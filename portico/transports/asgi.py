"""The ASGI app that every HTTP-speaking transport serves."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Scope

from portico.core.errors import Unavailable
from portico.core.events import encode_json
from portico.core.intake import Intake
from portico.core.principal import Callers
from portico.core.sessions import Sessions
from portico.core.tickets import KEY_BYTES, Tickets
from portico.metrics.metrics import OTHER, Metrics
from portico.transports.ability_routes import AbilityRoutes
from portico.transports.access_log import AccessLog, Ended
from portico.transports.admission import Admission
from portico.transports.answer_bodies import Health
from portico.transports.auth import Authentication
from portico.transports.base import Routes
from portico.transports.documentation import Documentation
from portico.transports.endpoint import route
from portico.transports.gate import CallerGate
from portico.transports.guarded import Guarded
from portico.transports.holding import Holding
from portico.transports.hosts import HostCheck
from portico.transports.mount import Mounted
from portico.transports.operation import JSON, Answer, operation
from portico.transports.page_guard import PageGuard
from portico.transports.problems import Problems
from portico.transports.proxies import ProxyHeaders
from portico.transports.refusals import Refusals
from portico.transports.routing import Routing, handle
from portico.transports.session_routes import SessionRoutes
from portico.transports.sse import EventRoutes
from portico.transports.streams import Streams
from portico.transports.web_origins import Cors, OriginCheck
from portico.transports.websocket import WebSocketRoutes
from portico.transports.work_routes import WorkRoutes

log = logging.getLogger("portico.transports")


@dataclass(frozen=True, slots=True)
class Api:
    """The configuration of the app.

    ``prefix`` is the path of the API, such as ``/claude``. ``max_body`` is in bytes. ``hosts`` are the names that
    `HostCheck` allows; ``origins`` are the allowed origins of other servers' web pages. ``rest`` turns on all but
    WebSocket, and the ``routes`` of plugins, which come after all others. ``tickets`` reads and makes tickets. Where
    callers need no token, web pages of ``page_hosts`` (None: of ``hosts``) may act. ``transport`` is the name that the
    audit gives to the way of the requests. ``proxies`` are those that `ProxyHeaders` trusts. ``metrics`` counts
    requests. ``intake`` bounds how much callers send at a time. ``heartbeat`` is in seconds; None: as each kind of
    stream has it. ``root_path`` is the path that a proxy takes off. With ``everything``, all routes lie below
    ``prefix``, not only those of the API.
    """

    prefix: str
    max_body: int
    hosts: Collection[str]
    origins: Collection[str]
    rest: bool = True
    routes: Mapping[str, Routes] = field(default_factory=dict)
    tickets: Tickets = field(default_factory=lambda: Tickets(secrets.token_bytes(KEY_BYTES)))
    page_hosts: Collection[str] | None = None
    transport: str = "http"
    proxies: Collection[str] = ()
    metrics: Metrics = field(default_factory=Metrics)
    intake: Intake = field(default_factory=Intake)
    heartbeat: float | None = None
    root_path: str = ""
    everything: bool = False

    @property
    def base(self) -> str:
        """The path that all routes lie below."""
        return self.prefix if self.everything else ""

    @property
    def below(self) -> str:
        """The path of the API below `base`."""
        return "" if self.everything else self.prefix


def create_app(engine: Sessions, callers: Callers, streams: Streams, api: Api) -> ASGIApp:
    gate = CallerGate(engine, callers, api.tickets, api.metrics)
    streams.chores.append(gate.tell)
    routes = routes_of(engine, gate, streams, api)
    # Starlette's app class is not used: it would answer errors itself, in its own way.
    guard = PageGuard(api.origins, api.hosts if api.page_hosts is None else api.page_hosts)
    checked = HostCheck(OriginCheck(Authentication(Holding(handle, api.intake), gate, guard), api.origins), api.hosts)
    noted = Refusals(Routing(checked, routes), engine.audit, api.transport)
    logged = Guarded(Cors(Problems(noted), api.origins))
    app = AccessLog(logged, _counting(dict(_templates(routes, api.base)), api.metrics))
    mounted = Mounted(app, api.root_path, api.prefix, api.base)
    return ProxyHeaders(mounted, api.proxies) if api.proxies else mounted


def routes_of(engine: Sessions, gate: CallerGate, streams: Streams, api: Api) -> list[BaseRoute]:
    """Return all routes. Those of plugins come last, so that they can't take over a path of the API."""
    routes: list[BaseRoute] = [
        *WebSocketRoutes(engine, streams, gate, api.below, api.intake, api.heartbeat).routes(),
        *_health(engine),
    ]
    plugins: list[BaseRoute] = []
    if api.rest:
        routes += SessionRoutes(engine, api.below, api.max_body, api.tickets).routes()
        routes += AbilityRoutes(engine, api.below).routes()
        routes += WorkRoutes(engine, api.below).routes()
        routes += EventRoutes(engine, streams, api.below, api.max_body, api.heartbeat).routes()
        plugins = list(_of_plugins(engine, api.routes))
    return [*routes, *Documentation([*routes, *plugins]).routes(), *plugins]


def _templates(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[int, str]]:
    """Yield, for each route, the identity of the endpoint that it puts into the scope, and the template of its path."""
    for each in routes:
        path = prefix + getattr(each, "path", "")
        yield id(getattr(each, "endpoint", getattr(each, "app", each))), path or "/"
        yield from _templates(getattr(each, "routes", None) or (), path)


def _counting(templates: Mapping[int, str], metrics: Metrics) -> Ended:
    def ended(scope: Scope, status: int, began: float | None) -> None:
        template = templates.get(id(scope.get("endpoint")), OTHER)
        metrics.request(template, scope.get("method", "WEBSOCKET"), status, began)

    return ended


def _of_plugins(engine: Sessions, plugins: Mapping[str, Routes]) -> Iterator[BaseRoute]:
    for name, plugin in plugins.items():
        try:
            yield from plugin.routes(engine)
        except Exception:
            log.exception("the routes %s are not served", name)


def _health(engine: Sessions) -> list[Route]:
    probed = Admission(public=True, any_host=True)

    @operation("isAlive", "Check that the server is alive", Answer(200, "It is alive.", Health), admission=probed)
    async def alive(request: Request) -> Response:
        return Response(encode_json(Health(status="ok")), media_type=JSON)

    @operation(
        "isReady",
        "Check that the server accepts new work",
        Answer(200, "It does.", Health),
        codes=("not_ready",),
        admission=probed,
    )
    async def ready(request: Request) -> Response:
        if reasons := engine.readiness():
            more = {"failed": engine.failed} if engine.failed else {}
            raise Unavailable("; ".join(reasons), code="not_ready", reasons=reasons, **more)
        body = Health(status="ok", failed=engine.failed) if engine.failed else Health(status="ok")
        return Response(encode_json(body), media_type=JSON)

    return [route("/healthz", GET=alive), route("/readyz", GET=ready)]
