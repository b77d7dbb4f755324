"""The hooks of Portico: signatures and what they mean, nothing else.

A plugin is a module (or object) with functions of these names, marked ``@portico.hookimpl``. Hooks are synchronous and
are called once, while the server starts; each returns a mapping of names to factories. A factory is called only for
a name that the settings select, so it is the place for heavy imports. The objects that factories make are used from the
event loop; their methods are async.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from portico.core.agent import AgentDriver
    from portico.core.principal import Authenticator
    from portico.core.store import EventStore
    from portico.plugins.context import Context
    from portico.transports.base import Transport

hookspec = pluggy.HookspecMarker("portico")


@hookspec
def portico_transports() -> Mapping[str, Callable[[Context], Transport]]:  # type: ignore[empty-body]
    """Transports by the name that ``networking_mode`` selects them with."""


@hookspec
def portico_drivers() -> Mapping[str, Callable[[Context], AgentDriver]]:  # type: ignore[empty-body]
    """Drivers by the name that a session's ``driver`` selects them with."""


@hookspec
def portico_stores() -> Mapping[str, Callable[[Context], EventStore]]:  # type: ignore[empty-body]
    """Stores by the name that the setting ``store`` selects them with."""


@hookspec
def portico_authenticators() -> Mapping[str, Callable[[Context], Authenticator]]:  # type: ignore[empty-body]
    """Authenticators by the name that the setting ``auth`` selects them with."""
