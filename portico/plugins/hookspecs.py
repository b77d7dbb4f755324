"""The hooks of Portico: their signatures and their meaning.

A plugin is a module (or object) with functions of these names, marked ``@portico.hookimpl``. Hooks are synchronous.
Each is called once, while a command of the program starts, and returns a mapping: from names to factories, unless its
docstring names something else. The event loop uses the objects that the factories make; their methods are async.

A plugin fails as a whole if one of its hooks raises, is async, is misspelt, takes arguments, returns anything else, or
offers a name that another plugin already offers. Nothing of a failed plugin is used; everything else continues.
``portico plugins`` and the log give the reason.
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
    """Return transports, by the name that selects them in ``networking_mode``.

    Called: the factory of each selected name, before anything is served. It may import what it needs and make the
    transport; it must not open sockets, which is the job of `Transport.serve`. On failure: a selected transport whose
    factory raises, or that cannot start, stops the start and gives the reason. If one dies later, the others keep
    serving.
    """


@hookspec
def portico_routes() -> Mapping[str, Callable[[Context], Routes | None]]:  # type: ignore[empty-body]
    """Return routes that every HTTP transport serves beside the API, behind the same authentication and limits.

    Called: all factories, before those of the transports. A factory returns None if it has nothing to serve. On
    failure: the routes are left out and the log gives the reason. A route that raises answers 500. The API's own paths
    take precedence.
    """


@hookspec
def portico_drivers() -> Mapping[str, Callable[[Context], AgentDriver]]:  # type: ignore[empty-body]
    """Return drivers, by the name that selects them in the setting ``driver``.

    Called: the factory of each selected name, before the engine runs. On failure: if the factory or `AgentDriver.open`
    raises, the server does not start. Later, an agent that raises an unexpected error or takes too long is stopped, and
    its turn ends in an error.
    """


@hookspec
def portico_stores() -> Mapping[str, Callable[[Context], EventStore]]:  # type: ignore[empty-body]
    """Return stores, by the name that selects them in the setting ``store``.

    Called: the factory of the selected name, before the engine runs. On failure: if the factory or `EventStore.open`
    raises, the server does not start. Later, nobody sees an event that the store did not accept: turns end in an error,
    and ``/readyz`` reports it.
    """


@hookspec
def portico_authenticators() -> Mapping[str, Callable[[Context], Authenticator]]:  # type: ignore[empty-body]
    """Return authenticators, by the name that selects them in the setting ``auth``.

    Called: the factory of each selected name, before everything else. On failure: if the factory raises, the server
    does not start. Later, an authenticator that raises or takes over 10 s admits nobody: the caller gets 503.
    """


@hookspec
def portico_observers() -> Mapping[str, Callable[[Context], Observer | None]]:  # type: ignore[empty-body]
    """Return observers, which receive all events of all sessions once the events are stored.

    Called: all factories, before the engine runs. A factory returns None if it has nothing to observe. On failure: an
    observer whose factory raises is left out. One that raises, or takes over 30 s, does not get those events again and
    continues with the next; nothing else is affected. An observer that is an async context manager is entered first and
    exited last.
    """


@hookspec
def portico_settings() -> Mapping[str, type[BaseModel]]:  # type: ignore[empty-body]
    """Return the plugin's own settings: pydantic models by a prefix, such as ``{"webhook": WebhookSettings}``.

    Called: before the settings are read. The field ``url`` then becomes the setting ``webhook_url``:
    ``PORTICO_WEBHOOK_URL`` in the environment, ``--webhook-url`` on the command line, a line of `portico config`.
    Pydantic converts text to the field's type. The factories find the model under its prefix in
    `Context.plugin_settings`. Give every field a default and a ``description``, and give secrets the type
    ``SecretStr``. On failure: a wrong value stops the start, like any other mistake in the settings.
    """


@hookspec
def portico_commands() -> Mapping[str, click.Command]:  # type: ignore[empty-body]
    """Return commands of the program, by name, as click commands: ``portico NAME``.

    Called: whenever somebody runs a command that Portico does not have, or lists all commands. On failure: an exception
    of the command ends the program with status 1.
    """
