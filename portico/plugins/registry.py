"""The offers of the plugins: factories by kind and name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from portico.core.errors import PorticoError

if TYPE_CHECKING:
    import click
    from pydantic import BaseModel

    from portico.core.agent import AgentDriver
    from portico.core.observer import Observer
    from portico.core.principal import Authenticator
    from portico.core.store import EventStore
    from portico.plugins.context import Context
    from portico.transports.base import Routes, Transport

KINDS: Mapping[str, str] = {
    "portico_transports": "transport",
    "portico_routes": "routes",
    "portico_drivers": "driver",
    "portico_stores": "store",
    "portico_authenticators": "authenticator",
    "portico_observers": "observer",
    "portico_settings": "settings",
    "portico_commands": "command",
}
"""The kind that each hook offers. The rest of the hook's name is the name of a `Registry` field."""


T = TypeVar("T")


class PluginError(PorticoError):
    """The error for a name that no plugin offers."""

    code = "plugin"


@dataclass(slots=True)
class Registry:
    """All offers, by kind and name.

    For an unknown name, `transport`, `driver`, `store` and `authenticator` raise `PluginError`, which lists the names
    that exist and the plugins that failed.
    """

    transports: dict[str, Callable[[Context], Transport]] = field(default_factory=dict)
    routes: dict[str, Callable[[Context], Routes | None]] = field(default_factory=dict)
    drivers: dict[str, Callable[[Context], AgentDriver]] = field(default_factory=dict)
    stores: dict[str, Callable[[Context], EventStore]] = field(default_factory=dict)
    authenticators: dict[str, Callable[[Context], Authenticator]] = field(default_factory=dict)
    observers: dict[str, Callable[[Context], Observer | None]] = field(default_factory=dict)
    settings: dict[str, type[BaseModel]] = field(default_factory=dict)
    commands: dict[str, click.Command] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def transport(self, name: str) -> Callable[[Context], Transport]:
        return self._find("transport", self.transports, name)

    def driver(self, name: str) -> Callable[[Context], AgentDriver]:
        return self._find("driver", self.drivers, name)

    def store(self, name: str) -> Callable[[Context], EventStore]:
        return self._find("store", self.stores, name)

    def authenticator(self, name: str) -> Callable[[Context], Authenticator]:
        return self._find("authenticator", self.authenticators, name)

    def add(self, hook: str, offers: Mapping[str, Any]) -> None:
        """Add the offers of an implementation of ``hook``."""
        getattr(self, hook.removeprefix("portico_")).update(offers)

    def _find(self, kind: str, offers: Mapping[str, T], name: str) -> T:
        if name in offers:
            return offers[name]
        failed = "".join(f"; the plugin {plugin} failed: {reason}" for plugin, reason in self.failures.items())
        raise PluginError(f"there is no {kind} {name!r}; there are: {', '.join(sorted(offers)) or 'none'}{failed}")
