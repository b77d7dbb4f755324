"""The transport ``ziti``: the API on services of an OpenZiti network, without a listening port.

Ziti's library is loaded only by ``listener``, a process of its own, which hands each accepted connection over to the
server. If it hangs or crashes, the server starts it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.plugins.context import Context
    from portico.transports.base import Transport


def _create(context: Context) -> Transport:
    from portico.ziti.transport.transport import create

    return create(context)


@hookimpl
def portico_transports() -> Mapping[str, Callable[[Context], Transport]]:
    return {"ziti": _create}
