"""Check that the address is free to listen on."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from portico.cli.doctor.finding import Finding, Place, failure, ok
from portico.cli.doctor.lease import holder
from portico.transports.base import TransportFailed
from portico.transports.listen import listen_tcp, listen_unix


async def check(place: Place) -> Finding:
    settings = place.settings
    if not {"http", "websocket"} & set(settings.networking_mode):
        return ok("no listening port is needed")
    where = f"{settings.host}:{settings.port}" if settings.uds is None else str(settings.uds)
    try:
        if settings.uds is None:
            sockets, _ = await listen_tcp(settings.host, settings.port)
            for each in sockets:
                each.close()
        else:
            with listen_unix(settings.uds):
                pass
    except TransportFailed as error:
        if _is_of(settings.data_dir, settings.port, settings.uds):
            return ok(f"{where} is taken by the server on this data folder")
        mend = "stop what listens there, or choose another: PORTICO_PORT, PORTICO_HOST or PORTICO_UDS"
        return failure(str(error), mend)
    return ok(f"{where} is free")


def _is_of(data_dir: Path, port: int, uds: Path | None) -> bool:
    """Tell whether the server on the data folder reports this address as its own."""
    try:
        url = str(json.loads((data_dir / "server.json").read_text())["url"])
        return holder(data_dir) is not None and (url == f"unix:{uds}" if uds else urlsplit(url).port == port)
    except (OSError, ValueError, KeyError, TypeError):
        return False
