"""Settings of the network: where the server listens, who may call, and how much they may send."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationInfo, field_validator

from . import values
from .fields import AbsolutePath, Name, SettingsGroup, seconds, setting, size, whole_number
from .values import Token, ZitiService


class NetworkSettings(SettingsGroup):
    """Settings of the network: where the server listens, who may call, and how much they may send."""

    networking_mode: Annotated[
        tuple[Name, ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
        AfterValidator(values.without_covered),
        Field(min_length=1),
    ] = setting(
        "Transports that make the sessions reachable. `http` serves WebSockets too, so `http,websocket` is `http`.",
        "names of transports, comma-separated",
        ("http",),
        bare=True,
    )
    host: Annotated[str, AfterValidator(values.host)] = setting(
        "TCP address to listen on.", "a host name or an IP address", "127.0.0.1"
    )
    port: int = whole_number("TCP port to listen on; 0 takes a free one.", 8787, 0, 65535)
    uds: Annotated[AbsolutePath, AfterValidator(values.socket_path)] | None = setting(
        "Unix socket to listen on instead of `host` and `port`.",
        "a path short enough for a Unix socket",
        None,
        path=True,
    )
    uds_mode: Annotated[str, AfterValidator(values.file_mode)] = setting(
        "Mode of the socket `uds`: who may connect to it, beside root.",
        "an octal mode from 0000 to 0777",
        "0660",
    )
    uds_group: Annotated[str, AfterValidator(values.own_group)] | None = setting(
        "Group of the socket `uds`, such as that of a proxy. Default: the group of the server's process.",
        "the name or number of a group that the server's user is in; root may name any",
        None,
        min_length=1,
    )
    tls_cert: AbsolutePath | None = setting(
        "PEM file with the certificate, and those between it and its root, for TLS on `host` and `port`. SIGHUP reads "
        "it again.",
        "a path",
        None,
        reloadable=True,
        path=True,
    )
    tls_key: AbsolutePath | None = setting(
        "PEM file with the certificate's key, not encrypted, readable for the server alone (mode 0600). SIGHUP reads "
        "it again.",
        "a path; tls_cert and tls_key go together",
        None,
        reloadable=True,
        validate_default=True,
        path=True,
    )
    proxy_headers: bool = setting(
        "Whether the client's address and scheme are those in X-Forwarded-For and X-Forwarded-Proto, and the path in "
        "front of `Location` that in X-Forwarded-Prefix, where `trusted_proxies` say so.",
        "true or false",
        False,
    )
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(values.proxy)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
    ] = setting(
        "Proxies whose word `proxy_headers` takes; `unix` for those that come through the socket `uds`.",
        "IP addresses, networks such as 10.0.0.0/8 and, with uds, unix, comma-separated; with proxy_headers only",
        (),
        validate_default=True,
    )
    ziti_identity_file: AbsolutePath | None = setting(
        "Identity, enrolled on a Ziti network, that the mode `ziti` binds its services with; readable for the server "
        "alone (mode 0600).",
        "a path",
        None,
        validate_default=True,
        bare=True,
        path=True,
    )
    ziti_service_name: Annotated[
        tuple[Annotated[ZitiService, BeforeValidator(values.ziti_service)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct_services),
    ] = setting(
        "Services that the mode `ziti` binds. Who may dial `name=principal` is that principal, by the network's own "
        "policies; callers of one without `=` bring tokens.",
        "name, name=principal or name=principal:admin, comma-separated",
        (),
        validate_default=True,
        bare=True,
    )
    ziti_trust_caller: bool = setting(
        "Whether the name that a Ziti caller gives itself is its principal, where the service names none. Anybody who "
        "may dial can make one up.",
        "true or false",
        False,
    )
    ziti_required: bool = setting(
        "Whether a service that can't be bound (it is missing, or may not be bound) fails the start. Otherwise the "
        "others are served, and it is tried again.",
        "true or false",
        False,
    )
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(values.host_pattern)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
    ] = setting(
        "Names (in the header Host) under which the server may be asked for, beside the loopback names and `host`; "
        "`*` for any. On a Unix socket only web pages are held to it, where `auth` is `none`.",
        "host names and IP addresses without ports, comma-separated, or *",
        (),
    )
    allowed_origins: Annotated[
        tuple[Annotated[str, AfterValidator(values.origin)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
    ] = setting(
        "Origins of web pages of other servers that may use this one (CORS, and WebSockets).",
        "origins such as https://app.example or http://localhost:3000, comma-separated",
        (),
    )
    auth: Annotated[
        tuple[Name, ...], BeforeValidator(values.split), AfterValidator(values.distinct), Field(min_length=1)
    ] = setting(
        "How callers are told apart: authenticators, the first that knows one decides. `none` lets everybody do "
        "everything, and is for loopback and Unix sockets only.",
        "names of authenticators, comma-separated, or with a loopback host or a Unix socket none",
        ("token",),
    )
    auth_tokens: Annotated[
        tuple[Annotated[Token, BeforeValidator(values.token)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct_tokens),
    ] = setting(
        "Callers' tokens, or `@FILE` with one a line and # comments, in which `portico token hash` puts "
        "hashes for secrets. Default: one admin token, made at the first start and kept in `data_dir`.",
        "name:secret or name:secret:admin, comma-separated, or @FILE with one a line; "
        "in names letters, digits and ._@-, in secrets letters, digits and ._~+/=-, or sha256$ and a hash",
        (),
        secret=True,
        reloadable=True,
        from_file=True,
    )
    api_prefix: Annotated[str, AfterValidator(values.url_prefix)] = setting(
        "Path that the API lies under.",
        "a path such as /claude or /a/b, without a / at its end, of letters, digits and ._~-",
        "/claude",
    )
    prefix_everything: bool = setting(
        "Whether the documents, `/healthz`, `/readyz`, `/metrics` and routes of plugins lie under `api_prefix` too, "
        "instead of the root.",
        "true or false",
        False,
    )
    root_path: Annotated[str, AfterValidator(values.url_prefix)] | None = setting(
        "Path of another site that a proxy takes off before it passes a request on. `Location` and `servers` in "
        "`/openapi.json` begin with it. A trusted proxy may say another in X-Forwarded-Prefix (`proxy_headers`).",
        "a path such as /agents or /a/b, without a / at its end, of letters, digits and ._~-",
        None,
    )
    max_body: ByteSize = size("Bytes of a request's body; a larger one is refused.", ByteSize(32 * 1024**2))
    max_frame: ByteSize = size(
        "Bytes of a WebSocket message; a larger one ends the connection.", ByteSize(32 * 1024**2)
    )
    write_timeout: float = seconds("Seconds; a client that takes nothing for longer is disconnected.", 30.0)
    heartbeat: int | None = whole_number(
        "Seconds between two comments in an event stream, or two pings on a WebSocket, if a request has no `heartbeat` "
        "of its own. Default: 4 in the stream of a turn, 15 in that of a session, 18 on a WebSocket.",
        None,
        1,
        60,
    )
    max_streams_per_principal: int = whole_number(
        "Event streams and WebSockets that a principal may have open; one more is refused.", 1000, 1, 1_000_000
    )
    max_connections: int | None = whole_number(
        "Connections at once; one more takes the place of the one that has been silent longest, and is refused with "
        "503 where all are at work. Default: what the limit on open files (`ulimit -n`) leaves for them.",
        None,
        1,
        1_000_000,
    )

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert" in info.data and (key is None) != (info.data["tls_cert"] is None):
            raise ValueError("tls_cert and tls_key are nothing without each other")
        return key

    @field_validator("trusted_proxies")
    @classmethod
    def _go_with_proxy_headers(cls, proxies: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "proxy_headers" in info.data and info.data["proxy_headers"] != bool(proxies):
            raise ValueError("proxy_headers and trusted_proxies are nothing without each other")
        if "unix" in proxies and "uds" in info.data and info.data["uds"] is None:
            raise ValueError("unix needs uds")
        return proxies

    @field_validator("ziti_identity_file", "ziti_service_name")
    @classmethod
    def _needed_in_mode_ziti(cls, value: Any, info: ValidationInfo) -> Any:
        if not value and "ziti" in info.data.get("networking_mode", ()):
            raise ValueError("the mode ziti needs it")
        return value

    @field_validator("auth")
    @classmethod
    def _none_stays_local(cls, auth: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        # A check of the field, not of the whole model, so that it speaks up beside other mistakes.
        # Where host or uds is itself a mistake, it is missing here, and that line says enough.
        if "none" in auth and len(auth) > 1:
            raise ValueError("with none, the others are never asked")
        if "none" in auth and {"host", "uds"} <= info.data.keys():
            host, uds = info.data["host"], info.data["uds"]
            if uds is None and not values.is_loopback(host):
                raise ValueError(f"anybody who reaches host {host} could use it")
            if uds is None and "*" in info.data.get("allowed_hosts", ()):
                raise ValueError("with allowed_hosts=* any web page could use it (DNS rebinding)")
        return auth
