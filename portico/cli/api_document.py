"""The API document, without a running server."""

from __future__ import annotations

from typing import Any

from portico.config.settings import Settings
from portico.core.engine import Engine
from portico.core.principal import Callers
from portico.plugins.memory_store.store import MemoryStore
from portico.server.hosting import policy
from portico.transports.asgi import Api, routes_of
from portico.transports.gate import CallerGate
from portico.transports.openapi import document
from portico.transports.streams import Streams


def api_document(settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document, without the plugins' additions. Nothing is opened or started for it."""
    engine = Engine(store=MemoryStore(), drivers={}, default_driver="", default_model=None, policy=policy(settings))
    api = Api(settings.api_prefix, settings.max_body, (), (), everything=settings.prefix_everything)
    gate = CallerGate(engine, Callers(()), api.tickets)
    server = (settings.root_path or "") + api.base
    return document(routes_of(engine, gate, Streams(), api), server or "/")
