"""The hooks of Portico: signatures and what they mean, nothing else.

A plugin is a module (or object) with functions of these names, marked ``@portico.hookimpl``. Hooks are synchronous and
are called once, while a command of the program starts; each returns a mapping of names to factories, or of what else it
says. The objects that factories make are used from the event loop; their methods are async.

A hook that raises, that is async, misspelt or takes arguments, or that returns something else, and a name that somebody
else offers already: each makes its whole plugin fail. Then nothing of the plugin is used, everything else goes on, and
``portico plugins`` and the log say why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click
    from pydantic import BaseModel

    from portico.core.agent import AgentDriver
    from portico.core.observer import Observer
    from portico.core.principal import Authenticator
    from portico.core.store import EventStore
    from portico.plugins.context import Context
    from portico.transports.base import Routes, Transport

hookspec = pluggy.HookspecMarker("portico")


@hookspec
def portico_transports() -> Mapping[str, Callable[[Context], Transport]]:  # type: ignore[empty-body]
    """Transports by the name that ``networking_mode`` selects them with.

    Fires: the factory is called for a selected name only, before anything is served. May import what it needs, and make
    the transport; opening sockets is for `Transport.serve`. Fails: a selected transport whose factory raises, or that
    can't start, stops the start, with its reason. One that dies later leaves the others serving.
    """


@hookspec
def portico_routes() -> Mapping[str, Callable[[Context], Routes | None]]:  # type: ignore[empty-body]
    """Routes that every HTTP-speaking transport serves beside the API, behind the same authentication and limits.

    Fires: all factories are called, before the transports'. None: there is nothing to serve. Fails: the routes are left
    out, and the log says why. A route that raises answers 500. A path that the API has stays the API's.
    """


@hookspec
def portico_drivers() -> Mapping[str, Callable[[Context], AgentDriver]]:  # type: ignore[empty-body]
    """Drivers by the name that the setting ``driver`` selects them with.

    Fires: the factory is called for a selected name only, before the engine runs. Fails: where the factory or
    `AgentDriver.open` raises, the start is stopped. Later on, an agent that raises what it should not, or takes too
    long, is stopped, and its turn ends in an error.
    """


@hookspec
def portico_stores() -> Mapping[str, Callable[[Context], EventStore]]:  # type: ignore[empty-body]
    """Stores by the name that the setting ``store`` selects them with.

    Fires: the factory is called for the selected name only, before the engine runs. Fails: where the factory or
    `EventStore.open` raises, the start is stopped. Later on, what a store does not take nobody sees: turns end in an
    error, and ``/readyz`` says so.
    """


@hookspec
def portico_authenticators() -> Mapping[str, Callable[[Context], Authenticator]]:  # type: ignore[empty-body]
    """Authenticators by the name that the setting ``auth`` selects them with.

    Fires: the factory is called for a selected name only, before everything else. Fails: where the factory raises, the
    start is stopped. An authenticator that raises or takes over 10 s later on lets nobody in: the caller gets 503.
    """


@hookspec
def portico_observers() -> Mapping[str, Callable[[Context], Observer | None]]:  # type: ignore[empty-body]
    """Observers, which are told of all events of all sessions once these are stored.

    Fires: all factories are called, before the engine runs. None: there is nothing to observe. Fails: an observer whose
    factory raises is left out. One that raises, or takes over 30 s, is not told those events again, and goes on with
    the next; nobody else notices. One that is an async context manager is entered first and left last.
    """


@hookspec
def portico_settings() -> Mapping[str, type[BaseModel]]:  # type: ignore[empty-body]
    """Settings of the plugin's own: pydantic models by a prefix, such as ``{"webhook": WebhookSettings}``.

    Fires: before the settings are read. The field ``url`` is then the setting ``webhook_url``: ``PORTICO_WEBHOOK_URL``
    in the environment, ``--webhook-url`` on the command line, a line of `portico config`; text is turned into the
    field's type by pydantic. The factories find the model under its prefix in `Context.plugin_settings`. Give every
    field a default, a ``description``, and secrets the type ``SecretStr``. Fails: a wrong value stops the start like
    any other mistake in the settings.
    """


@hookspec
def portico_commands() -> Mapping[str, click.Command]:  # type: ignore[empty-body]
    """Commands of the program by their name, as click has them: ``portico NAME``.

    Fires: whenever a command is asked for that Portico does not have, or all are listed. Fails: an exception of the
    command ends the program with status 1.
    """
