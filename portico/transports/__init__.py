"""What makes the engine reachable. The transport ``http`` is built in."""

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


@hookimpl
def portico_transports() -> Mapping[str, Callable[[Context], Transport]]:
    return {"http": _create_http}
