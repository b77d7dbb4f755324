"""Portico hosts long-lived Claude Code sessions and puts them on the network.

What plugins need is here. It is imported when it is first used: `import portico` alone costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.config.settings import Settings
    from portico.core.agent import Agent, AgentDriver, AgentOptions, AgentSpec, Decision, OwnTurn, Turn
    from portico.core.engine import Engine
    from portico.core.errors import AgentFailed, AgentUnavailable, PorticoError
    from portico.core.events import AgentEvent, Event
    from portico.core.observer import Observer
    from portico.core.principal import Authenticator, Callers, Principal
    from portico.core.reader import Reader
    from portico.core.requests import NewSession, NewTurn, SessionView, TurnView
    from portico.core.sessions import Sessions
    from portico.core.store import EventStore, SessionRecord, TurnSpan
    from portico.plugins.context import Context
    from portico.transports.base import Routes, Transport, TransportFailed

__version__ = "0.2.0"

__all__ = [
    "Agent",
    "AgentDriver",
    "AgentEvent",
    "AgentFailed",
    "AgentOptions",
    "AgentSpec",
    "AgentUnavailable",
    "Authenticator",
    "Callers",
    "Context",
    "Decision",
    "Engine",
    "Event",
    "EventStore",
    "NewSession",
    "NewTurn",
    "Observer",
    "OwnTurn",
    "PorticoError",
    "Principal",
    "Reader",
    "Routes",
    "SessionRecord",
    "SessionView",
    "Sessions",
    "Settings",
    "Transport",
    "TransportFailed",
    "Turn",
    "TurnSpan",
    "TurnView",
    "__version__",
    "hookimpl",
]

_FROM = {
    "portico.config.settings": "Settings",
    "portico.core.agent": "Agent AgentDriver AgentOptions AgentSpec Decision OwnTurn Turn",
    "portico.core.engine": "Engine",
    "portico.core.errors": "AgentFailed AgentUnavailable PorticoError",
    "portico.core.events": "AgentEvent Event",
    "portico.core.observer": "Observer",
    "portico.core.principal": "Authenticator Callers Principal",
    "portico.core.reader": "Reader",
    "portico.core.requests": "NewSession NewTurn SessionView TurnView",
    "portico.core.sessions": "Sessions",
    "portico.core.store": "EventStore SessionRecord TurnSpan",
    "portico.plugins.context": "Context",
    "portico.transports.base": "Routes Transport TransportFailed",
}
_MODULES = {name: module for module, names in _FROM.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
