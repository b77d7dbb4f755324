"""Transports make the engine reachable. ``http`` and ``websocket`` are built in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.plugins.context import Context
    from portico.transports.base import Transport


def _create_http(context: Context) -> Transport:
    from portico.transports.http import create

    return create(context)


def _create_websocket(context: Context) -> Transport:
    from portico.transports.http import create

    return create(context, name="websocket")


@hookimpl
def portico_transports() -> Mapping[str, Callable[[Context], Transport]]:
    return {"http": _create_http, "websocket": _create_websocket}
