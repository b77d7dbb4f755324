"""The argument of a plugin's factory."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portico.core.intake import Intake
from portico.core.principal import Authenticator, Callers
from portico.core.quota import StreamQuota
from portico.core.tickets import KEY_BYTES, Tickets
from portico.metrics.metrics import Metrics
from portico.plugins.reloads import Reloads

if TYPE_CHECKING:
    from portico.config.settings import Settings
    from portico.core.gateway import Gateway
    from portico.transports.base import Routes


@dataclass(frozen=True, slots=True)
class Context:
    """The server around a plugin.

    ``plugin_settings`` are the plugins' own settings, by prefix, of the types that ``portico_settings`` returned.
    ``agent_environment`` is the part of the server's environment that agents may have, and ``ziti_environment`` the
    part for Ziti's library. ``callers`` finds out who is calling; ``routes`` are the plugins' routes. Both are empty
    while they are being made; a transport's factory sees them complete. ``reloads`` is for parts that can take new
    settings while the server runs. ``tickets`` are what browsers may present in place of credentials; ``stream_quota``
    is for a transport's `Streams`; ``intake`` limits what callers send at a time. ``gateway`` is the agents' way to the
    model API; it is None if agents have the credential themselves, or if there is none. ``metrics`` are the server's
    numbers, to which every plugin may add. ``settings_files`` are the files from which settings, secrets included, may
    have come. ``sockets`` are the listening sockets that a service manager has opened for the server, each with its
    name: those with the name of a transport are that transport's, all others are for HTTP.
    """

    settings: Settings
    data_dir: Path
    agent_environment: Mapping[str, str] = field(default_factory=dict)
    plugin_settings: Mapping[str, Any] = field(default_factory=dict)
    callers: Callers = field(default_factory=lambda: Callers(()))
    routes: Mapping[str, Routes] = field(default_factory=dict)
    ziti_environment: Mapping[str, str] = field(default_factory=dict)
    reloads: Reloads = field(default_factory=Reloads)
    tickets: Tickets = field(default_factory=lambda: Tickets(secrets.token_bytes(KEY_BYTES)))
    stream_quota: StreamQuota = field(default_factory=StreamQuota)
    intake: Intake = field(default_factory=Intake)
    settings_files: tuple[Path, ...] = ()
    gateway: Gateway | None = None
    metrics: Metrics = field(default_factory=Metrics)
    sockets: tuple[tuple[str, socket.socket], ...] = ()

    def with_authenticators(self, *authenticators: Authenticator) -> Context:
        return replace(self, callers=Callers(authenticators))

    def with_routes(self, routes: Mapping[str, Routes]) -> Context:
        return replace(self, routes=routes)
