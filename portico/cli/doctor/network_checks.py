"""Checks of the ways to the server: its address, TLS and Ziti."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.cli.doctor.folder_checks import holder
from portico.transports.base import TransportFailed
from portico.transports.listen import SocketAccess, listen_tcp, listen_unix
from portico.transports.tls import checked_context
from portico.ziti.identity import IdentityError, check_identity


async def check_address(place: Place) -> Finding:
    """Check that the address is free to listen on."""
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
            with listen_unix(settings.uds, SocketAccess(int(settings.uds_mode, 8), settings.uds_group)):
                pass
    except TransportFailed as error:
        if _is_of(settings.data_dir, settings.port, settings.uds):
            return ok(f"{where} is taken by the server on this data folder")
        fix = "stop what listens there, or choose another: PORTICO_PORT, PORTICO_HOST or PORTICO_UDS"
        return failure(str(error), fix)
    return ok(f"{where} is free")


def _is_of(data_dir: Path, port: int, uds: Path | None) -> bool:
    """Tell whether the server on the data folder reports this address as its own."""
    try:
        url = str(json.loads((data_dir / "server.json").read_text())["url"])
        return holder(data_dir) is not None and (url == f"unix:{uds}" if uds else urlsplit(url).port == port)
    except (OSError, ValueError, KeyError, TypeError):
        return False


async def check_proxy(place: Place) -> Finding:
    """Check whose word is taken about clients, and tell the paths by which these find the server."""
    settings = place.settings
    root = settings.root_path or ""
    pages = root + (settings.api_prefix if settings.prefix_everything else "")
    found = f"the API is at {root}{settings.api_prefix}, the rest at {pages}/docs, {pages}/healthz and so on"
    if anybody := [each for each in settings.trusted_proxies if each.endswith("/0")]:
        text = f"anybody can make up the address of a client (trusted_proxies {', '.join(anybody)})"
        return warning(text, "name the addresses of the proxies alone in PORTICO_TRUSTED_PROXIES")
    if settings.trusted_proxies:
        found += f"; {', '.join(settings.trusted_proxies)} must write X-Forwarded-For"
    return ok(found)


async def check_tls(place: Place) -> Finding:
    """Check that certificate and key fit together."""
    return await check_pair(place.settings.tls_cert, place.settings.tls_key)


async def check_pair(cert: Path | None, key: Path | None) -> Finding:
    if cert is None or key is None:
        return ok("TLS is not configured")
    try:
        await anyio.to_thread.run_sync(checked_context, cert, key)
    except TransportFailed as error:
        return failure(error.detail, "name a PEM chain and its key")
    return ok(f"{cert} and its key fit together")


async def check_ziti(place: Place) -> Finding:
    """Check the library and the identity of the mode ziti, and whose word the server would take."""
    settings = place.settings
    if "ziti" not in settings.networking_mode or settings.ziti_identity_file is None:
        return ok("the mode ziti is not selected")
    if find_spec("openziti") is None:
        return failure("Ziti's library is not installed", "pip install 'portico-server[ziti]'")
    try:
        await anyio.to_thread.run_sync(check_identity, settings.ziti_identity_file)
    except IdentityError as error:
        return failure(str(error))  # the message says what to do
    if settings.ziti_trust_caller:
        text = "ziti_trust_caller: anybody who may dial a service without a principal can claim to be anyone"
        return warning(text, "name principals in PORTICO_ZITI_SERVICE_NAME (service=principal), and leave it out")
    return ok(f"{settings.ziti_identity_file} can be used for {', '.join(s.name for s in settings.ziti_service_name)}")
