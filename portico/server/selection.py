"""The parts that the settings name, made by the factories of plugins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from typing_extensions import get_protocol_members

from portico.config.load import Loaded, SettingsError
from portico.core.agent import AgentDriver
from portico.core.errors import PorticoError
from portico.core.observer import Observer
from portico.core.principal import Authenticator
from portico.core.store import EventStore
from portico.plugins.context import Context
from portico.plugins.registry import PluginError, Registry
from portico.transports.base import Routes, Transport

PROTOCOLS: Mapping[str, type] = {
    "transport": Transport,
    "routes": Routes,
    "driver": AgentDriver,
    "store": EventStore,
    "authenticator": Authenticator,
    "observer": Observer,
}
"""The protocol that an object of each kind follows."""

log = logging.getLogger("portico")

T = TypeVar("T")


class Selection:
    """The factories that the settings name. Raises `SettingsError`, which lists the available names."""

    def __init__(self, loaded: Loaded, registry: Registry, *, transports: Sequence[str]) -> None:
        self._loaded = loaded
        self._registry = registry
        settings = loaded.settings
        self._authenticators = {name: self._find("auth", registry.authenticator, name) for name in settings.auth}
        self._transports = {name: self._find("networking_mode", registry.transport, name) for name in transports}
        self._store = self._find("store", registry.store, settings.store)
        self._drivers = {name: self._find("driver", registry.driver, name) for name in settings.driver}

    # Each of these raises `PorticoError`: a part that was named must be there.

    def authenticators(self, context: Context) -> list[Authenticator]:
        return [made("authenticator", name, make, context) for name, make in self._authenticators.items()]

    def transports(self, context: Context) -> dict[str, Transport]:
        return {name: made("transport", name, make, context) for name, make in self._transports.items()}

    def store(self, context: Context) -> EventStore:
        return made("store", self._loaded.settings.store, self._store, context)

    def drivers(self, context: Context) -> dict[str, AgentDriver]:
        return {name: made("driver", name, make, context) for name, make in self._drivers.items()}

    # Nobody has named these parts: one that can't be made is left out, and the log says why.

    def routes(self, context: Context) -> dict[str, Routes]:
        return _optional("routes", self._registry.routes, context)

    def observers(self, context: Context) -> dict[str, Observer]:
        return _optional("observer", self._registry.observers, context)

    def _find(self, setting: str, find: Callable[[str], T], name: str) -> T:
        try:
            return find(name)
        except PluginError as error:
            source = self._loaded.sources[setting]
            given = setting if source == "default" else source.split()[-1]
            raise SettingsError([f"{given}={name}: {error}"]) from None


def made(kind: str, name: str, make: Callable[[Context], T], context: Context) -> T:
    """Call the factory. Raises `PorticoError`, also if its object lacks a member of the kind's protocol."""
    try:
        part = make(context)
    except (PorticoError, SettingsError):
        raise
    except Exception as error:
        log.debug("%s %s", kind, name, exc_info=True)
        raise PluginError(f"the {kind} {name} can't be made: {type(error).__name__}: {error}") from error
    if isinstance(part, Coroutine):
        part.close()
        raise PluginError(f"the {kind} {name} can't be made: its factory is async")
    lacking = [member for member in _members(PROTOCOLS[kind]) if not hasattr(part, member)]
    if lacking and (part is not None or kind not in ("routes", "observer")):
        found = type(part).__name__
        raise PluginError(
            f"the {kind} {name} can't be made: its factory returned {found}, without {', '.join(lacking)}"
        )
    return part


def _members(protocol: type) -> Iterator[str]:
    """Yield the members that an object must have, in the order of the protocol; all other members have defaults."""
    found = get_protocol_members(protocol)
    attributes: Mapping[str, Any] = vars(protocol)
    for name in dict.fromkeys([*protocol.__annotations__, *attributes]):
        if name in found and (name not in attributes or callable(attributes[name])):
            yield name


def _optional(kind: str, factories: Mapping[str, Callable[[Context], T | None]], context: Context) -> dict[str, T]:
    parts = {}
    for name, make in factories.items():
        try:
            part = made(kind, name, make, context)
        except (PorticoError, SettingsError) as error:
            log.error("%s", error)
            continue
        if part is not None:
            parts[name] = part
    return parts
