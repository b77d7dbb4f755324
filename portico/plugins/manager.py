"""Finds out what the plugins offer: names and factories, by kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from portico.core.errors import PorticoError
from portico.plugins import hookspecs

if TYPE_CHECKING:
    from portico.core.agent import AgentDriver
    from portico.core.principal import Authenticator
    from portico.core.store import EventStore
    from portico.plugins.context import Context
    from portico.transports.base import Transport

T = TypeVar("T")

BUILT_INS = (
    "portico.transports",
    "portico.plugins.claude_code",
    "portico.plugins.memory_store",
    "portico.plugins.sqlite_store",
    "portico.plugins.token_auth",
)
"""Modules that register what is built in. Importing them is cheap; what they offer is imported by its factory."""


class PluginError(PorticoError):
    """Two plugins offer the same name, or none offers the wanted one."""

    code = "plugin"


@dataclass(frozen=True, slots=True)
class Registry:
    """What can be selected, by kind and name. A factory is called for a selected name only.

    Asked for a name that there isn't, all methods raise `PluginError`, which lists those there are.
    """

    transports: Mapping[str, Callable[[Context], Transport]]
    drivers: Mapping[str, Callable[[Context], AgentDriver]]
    stores: Mapping[str, Callable[[Context], EventStore]]
    authenticators: Mapping[str, Callable[[Context], Authenticator]]

    def transport(self, name: str) -> Callable[[Context], Transport]:
        return _find("transport", self.transports, name)

    def driver(self, name: str) -> Callable[[Context], AgentDriver]:
        return _find("driver", self.drivers, name)

    def store(self, name: str) -> Callable[[Context], EventStore]:
        return _find("store", self.stores, name)

    def authenticator(self, name: str) -> Callable[[Context], Authenticator]:
        return _find("authenticator", self.authenticators, name)


def load_registry() -> Registry:
    """What this installation offers. Raises `PluginError`."""
    manager = create_manager()
    return collect(manager)


def create_manager() -> pluggy.PluginManager:
    """A manager with the built-ins in it; what else is to take part is registered before `collect`."""
    manager = pluggy.PluginManager("portico")
    manager.add_hookspecs(hookspecs)
    for name in BUILT_INS:
        manager.register(importlib.import_module(name), name)
    return manager


def collect(manager: pluggy.PluginManager) -> Registry:
    """Ask every plugin once what it offers. Raises `PluginError`."""
    manager.check_pending()
    hooks = manager.hook
    return Registry(
        _offers(hooks.portico_transports, "transport"),
        _offers(hooks.portico_drivers, "driver"),
        _offers(hooks.portico_stores, "store"),
        _offers(hooks.portico_authenticators, "authenticator"),
    )


def _find(kind: str, offers: Mapping[str, T], name: str) -> T:
    if name not in offers:
        raise PluginError(f"there is no {kind} {name!r}; there are: {', '.join(sorted(offers)) or 'none'}")
    return offers[name]


def _offers(hook: pluggy.HookCaller, kind: str) -> Mapping[str, Any]:
    # One implementation at a time: calling the hook as a whole wouldn't tell which plugin an offer is from.
    found: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for implementation in hook.get_hookimpls():
        plugin = implementation.plugin_name
        offers: Mapping[str, Any] = implementation.function()  # type: ignore[assignment]
        for name, factory in offers.items():
            if name in found:
                raise PluginError(f"the plugins {origin[name]} and {plugin} both register the {kind} {name!r}")
            found[name], origin[name] = factory, plugin
    return MappingProxyType(found)
