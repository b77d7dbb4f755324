"""Every setting: its name, type, default, meaning, and what is accepted. No I/O: `load` finds the values.

A setting that is not built is not here, and so is refused as unknown.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from . import values
from .values import AgentVariable, Token, ZitiService

PermissionMode = Literal["default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"]
SettingSource = Literal["user", "project", "local"]
ToolRule = Annotated[str, AfterValidator(values.tool_rule)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
AbsolutePath = Annotated[Path, AfterValidator(values.absolute)]
HeaderSecret = Annotated[SecretStr, AfterValidator(values.header_secret)]

_YEAR = 31_536_000
_PROXY_AND_CA = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


def _setting(
    description: str,
    accepts: str,
    default: Any = ...,
    *,
    secret: bool = False,
    reloadable: bool = False,
    **field: Any,
) -> Any:
    if default is not ...:
        field["default"] = default
    extra: dict[str, Any] = {"accepts": accepts, "secret": secret, "reloadable": reloadable}
    return Field(description=description, json_schema_extra=extra, **field)


class Settings(BaseSettings):
    """The server's settings, checked. Built by hand it takes what it is given and reads nothing.

    A wrong value raises pydantic.ValidationError, whose text does not hold the value.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    anthropic_api_key: HeaderSecret | None = _setting(
        "API key for the model API. With `key_gateway` no agent gets to see it; it is never logged.",
        "printable ASCII without blanks",
        None,
        secret=True,
    )
    claude_code_oauth_token: HeaderSecret | None = _setting(
        "OAuth token for the model API, from `claude setup-token`; never logged.",
        "printable ASCII without blanks",
        None,
        secret=True,
    )
    key_gateway: bool = _setting(
        "Agents reach the model API through the server, which adds the credential: a Unix socket for each, no port. "
        "Off: the credential is in the agents' environment, for each of their tools to read.",
        "on or off",
        True,
    )
    anthropic_base_url: Annotated[str, AfterValidator(values.base_url)] | None = _setting(
        "Base URL of the model API: where the gateway sends to, or, without it, the agents. Default: the API's own.",
        "an http:// or https:// URL without credentials, query and fragment",
        None,
    )
    agent_env: Annotated[
        tuple[Annotated[AgentVariable, BeforeValidator(values.agent_variable)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct_variables),
    ] = _setting(
        "Variables that agents get: a NAME of the server's environment, or NAME=value (which can't hold a "
        "comma). Default: the proxy and CA variables; a list given here replaces them.",
        "NAME or NAME=value, comma-separated, and none that is a session's or the server's own",
        tuple(AgentVariable(name) for name in _PROXY_AND_CA),
        secret=True,
    )
    budget_usd_per_day: float | None = _setting(
        "US dollars that the model may cost each principal a day (UTC), by list prices; then turns end with "
        "`budget_exceeded`. Default: any number. Needs `key_gateway` and a credential.",
        "a number of US dollars above 0, at most 1000000",
        None,
        gt=0,
        le=1e6,
        validate_default=True,
    )
    claude_model: str | None = _setting(
        "Model of new sessions, e.g. `sonnet` or `claude-opus-5-5`. Default: the CLI's own.",
        "a model's name, such as sonnet",
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,255}$",
    )
    max_tokens: int = _setting(
        "Output tokens of one model reply.", "a whole number from 1 to 1000000", 4096, ge=1, le=1_000_000
    )
    max_sessions: int = _setting(
        "Open sessions; one more is refused.", "a whole number from 1 to 100000", 10, ge=1, le=100_000
    )
    max_sessions_per_principal: int | None = _setting(
        "Open sessions of one principal; one more is refused. Default: as many as there may be.",
        "a whole number from 1 to 100000",
        None,
        ge=1,
        le=100_000,
    )
    max_turns_per_minute: int | None = _setting(
        "Turns that one principal may start in any minute; one more is refused. Default: any number.",
        "a whole number from 1 to 100000",
        None,
        ge=1,
        le=100_000,
    )
    session_timeout: float = _setting(
        "Seconds that an idle session stays open; then it gives up its slot and its process, and its next query opens "
        "it again.",
        f"a number of seconds above 0, at most {_YEAR}",
        3600.0,
        gt=0,
        le=_YEAR,
    )
    max_processes: int | None = _setting(
        "Live agent processes; beyond it the session longest idle gives its process up until its next query. "
        "Default: as `max_sessions`.",
        "a whole number from 1 to 100000",
        None,
        ge=1,
        le=100_000,
    )
    pool_size: int = _setting(
        "Agent processes started ahead for new sessions.", "a whole number from 0 to 1000", 2, ge=0, le=1000
    )
    process_wait: float = _setting(
        "Seconds that a turn waits for a process when all are busy.",
        f"a number of seconds above 0, at most {_YEAR}",
        60.0,
        gt=0,
        le=_YEAR,
    )
    turn_timeout: float = _setting(
        "Seconds; a longer turn is interrupted and ends in an error.",
        f"a number of seconds above 0, at most {_YEAR}",
        3600.0,
        gt=0,
        le=_YEAR,
    )
    permission_timeout: float = _setting(
        "Seconds that a permission request waits before it is denied; 0 waits for ever.",
        f"a number of seconds from 0 to {_YEAR}",
        300.0,
        ge=0,
        le=_YEAR,
    )
    max_queued_turns: int = _setting(
        "Turns that may wait in one session.", "a whole number from 0 to 10000", 8, ge=0, le=10_000
    )
    write_timeout: float = _setting(
        "Seconds; a client that takes nothing for longer is disconnected.",
        f"a number of seconds above 0, at most {_YEAR}",
        30.0,
        gt=0,
        le=_YEAR,
    )
    drain_timeout: float = _setting(
        "Seconds that running turns get at a stop; then they are interrupted.",
        f"a number of seconds from 0 to {_YEAR}",
        30.0,
        ge=0,
        le=_YEAR,
    )
    store: Name = _setting(
        "Where events are kept: `sqlite`, a file in `data_dir`, or `memory`, which keeps nothing over a restart.",
        "a store's name",
        "sqlite",
    )
    store_sync: Literal["normal", "full"] = _setting(
        "How the store writes: `normal` survives the end of the process, `full` also a loss of power, and is slower.",
        "normal, full",
        "normal",
    )
    retention_days: float | None = _setting(
        "Days; history that ended longer ago is deleted. Default: none is.",
        "a number of days above 0, at most 36500",
        None,
        gt=0,
        le=36_500,
    )
    retention_mb: float | None = _setting(
        "Megabytes that the history may take in the store; the oldest beyond that is deleted. Default: any number.",
        "a number of megabytes above 0, at most 1000000000",
        None,
        gt=0,
        le=1e9,
    )
    max_body: ByteSize = _setting(
        "Bytes of a request's body; a larger one is refused.",
        "a size from 1KiB to 1GiB, such as 1048576, 512KiB or 32MiB",
        ByteSize(32 * 1024**2),
        ge=1024,
        le=1024**3,
    )
    max_frame: ByteSize = _setting(
        "Bytes of a WebSocket message; a larger one ends the connection.",
        "a size from 1KiB to 1GiB, such as 1048576, 512KiB or 32MiB",
        ByteSize(32 * 1024**2),
        ge=1024,
        le=1024**3,
    )
    max_streams_per_principal: int = _setting(
        "Event streams and WebSockets that a principal may have open; one more is refused.",
        "a whole number from 1 to 1000000",
        1000,
        ge=1,
        le=1_000_000,
    )
    max_connections: int | None = _setting(
        "Connections at once; one more takes the place of the one that has been silent longest, and is refused with "
        "503 where all are at work. Default: what the limit on open files (`ulimit -n`) leaves for them.",
        "a whole number from 1 to 1000000",
        None,
        ge=1,
        le=1_000_000,
    )
    sandbox: Literal["auto", "bubblewrap", "none", "required"] = _setting(
        "Where agents see their own folders and the system alone: `auto` where bubblewrap works, `bubblewrap` and "
        "`required` always (else the server does not start), `none` nowhere.",
        "auto, bubblewrap, none, required",
        "auto",
    )
    networking_mode: Annotated[
        tuple[Name, ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
        AfterValidator(values.without_covered),
        Field(min_length=1),
    ] = _setting(
        "Transports that make the sessions reachable. `http` serves WebSockets too, so `http,websocket` is `http`.",
        "names of transports, comma-separated",
        ("http",),
    )
    plugins: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$", max_length=256)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
    ] = _setting(
        "Python modules that are plugins, to load beside those that are installed; the working directory is looked "
        "through too. One that can't be loaded is left out, and the log and `portico plugins` say why.",
        "module names such as my_package.my_plugin, comma-separated",
        (),
    )
    disabled_plugins: Annotated[tuple[Name, ...], BeforeValidator(values.split), AfterValidator(values.distinct)] = (
        _setting("Plugins not to load.", "names that `portico plugins` lists, comma-separated", ())
    )
    driver: Annotated[
        tuple[Name, ...], BeforeValidator(values.split), AfterValidator(values.distinct), Field(min_length=1)
    ] = _setting(
        "Driver of new sessions; the others of a list are those that a session may ask for.",
        "names of drivers, comma-separated",
        ("claude-code",),
    )
    claude_cli_path: AbsolutePath | None = _setting(
        "The `claude` program. Default: the one on PATH, else the one bundled with an installed package.",
        "a path",
        None,
    )
    host: Annotated[str, AfterValidator(values.host)] = _setting(
        "TCP address to listen on.", "a host name or an IP address", "127.0.0.1"
    )
    port: int = _setting(
        "TCP port to listen on; 0 takes a free one.", "a whole number from 0 to 65535", 8787, ge=0, le=65535
    )
    uds: Annotated[AbsolutePath, AfterValidator(values.socket_path)] | None = _setting(
        "Unix socket to listen on instead of `host` and `port`.",
        "a path short enough for a Unix socket",
        None,
    )
    tls_cert: AbsolutePath | None = _setting(
        "PEM file with the certificate, and those between it and its root, for TLS on `host` and `port`. SIGHUP reads "
        "it again.",
        "a path",
        None,
        reloadable=True,
    )
    tls_key: AbsolutePath | None = _setting(
        "PEM file with the certificate's key, not encrypted, readable for the server alone (mode 0600). SIGHUP reads "
        "it again.",
        "a path; tls_cert and tls_key go together",
        None,
        reloadable=True,
        validate_default=True,
    )
    proxy_headers: bool = _setting(
        "Whether the client's address and scheme are those in X-Forwarded-For and X-Forwarded-Proto, where "
        "`trusted_proxies` say so.",
        "true or false",
        False,
    )
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(values.proxy)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
    ] = _setting(
        "Proxies whose word `proxy_headers` takes; `unix` for those that come through the socket `uds`.",
        "IP addresses, networks such as 10.0.0.0/8 and, with uds, unix, comma-separated; with proxy_headers only",
        (),
        validate_default=True,
    )
    ziti_identity_file: AbsolutePath | None = _setting(
        "Identity, enrolled on a Ziti network, that the mode `ziti` binds its services with; readable for the server "
        "alone (mode 0600).",
        "a path",
        None,
        validate_default=True,
    )
    ziti_service_name: Annotated[
        tuple[Annotated[ZitiService, BeforeValidator(values.ziti_service)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct_services),
    ] = _setting(
        "Services that the mode `ziti` binds. Who may dial `name=principal` is that principal, by the network's own "
        "policies; callers of one without `=` bring tokens.",
        "name, name=principal or name=principal:admin, comma-separated",
        (),
        validate_default=True,
    )
    ziti_trust_caller: bool = _setting(
        "Whether the name that a Ziti caller gives itself is its principal, where the service names none. Anybody who "
        "may dial can make one up.",
        "true or false",
        False,
    )
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(values.host_pattern)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
    ] = _setting(
        "Names (in the header Host) under which the server may be asked for, beside the loopback names and `host`; "
        "`*` for any. Not for Unix sockets.",
        "host names and IP addresses without ports, comma-separated, or *",
        (),
    )
    allowed_origins: Annotated[
        tuple[Annotated[str, AfterValidator(values.origin)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
    ] = _setting(
        "Origins of web pages of other servers that may use this one (CORS, and WebSockets).",
        "origins such as https://app.example or http://localhost:3000, comma-separated",
        (),
    )
    data_dir: AbsolutePath = _setting(
        "Workspaces, agents' state and the made token, mode 0700. Default: the platform's user data folder.",
        "a folder's path",
    )
    workspace_roots: Annotated[
        tuple[AbsolutePath, ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
        Field(min_length=1),
    ] = _setting(
        "Folders that a session's `cwd` must lie in. The first one also holds the workspaces that the server makes, in "
        "`.portico-workspaces`. Default: `workspaces` in `data_dir`.",
        "absolute folders, comma-separated",
        default_factory=cast(Callable[[], Any], lambda known: (known["data_dir"] / "workspaces",)),
    )
    permission_modes: Annotated[
        tuple[PermissionMode, ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
        Field(min_length=1),
    ] = _setting(
        "Permission modes that clients may ask for.",
        "default, acceptEdits, plan, dontAsk and bypassPermissions, comma-separated",
        ("default", "acceptEdits", "plan", "dontAsk"),
    )
    mcp_servers: Annotated[dict[str, dict[str, Any]], BeforeValidator(values.mcp_servers)] = _setting(
        "MCP servers that clients may ask for by name. Default: none.",
        'a JSON object such as {"name": {"command": "...", "args": [...]}} or '
        '{"name": {"type": "http", "url": "..."}}, or @FILE that holds one',
        default_factory=cast(Callable[[], Any], dict),
        secret=True,
        repr=False,
    )
    allow_client_mcp: bool = _setting(
        "Whether clients may bring MCP servers of their own: programs that run beside the agent, and ask nobody.",
        "true or false",
        False,
    )
    setting_sources: Annotated[
        tuple[SettingSource, ...], BeforeValidator(values.split), AfterValidator(values.distinct)
    ] = _setting(
        "Setting sources that clients may ask for: with `project`, a workspace's CLAUDE.md, skills, commands and hooks "
        "act. Default: none.",
        "user, project and local, comma-separated",
        (),
    )
    allowed_tools: Annotated[tuple[ToolRule, ...], BeforeValidator(values.split), AfterValidator(values.distinct)] = (
        _setting(
            "Tools that sessions may use without asking; clients may ask for some of them, and for no others. "
            "Default: whatever a client says.",
            "tool rules such as Read or Bash(git log:*), comma-separated",
            (),
        )
    )
    disallowed_tools: Annotated[
        tuple[ToolRule, ...], BeforeValidator(values.split), AfterValidator(values.distinct)
    ] = _setting(
        "Tools that no session has, whatever a client says. Default: none.",
        "tool rules such as WebFetch or Bash(rm:*), comma-separated",
        (),
    )
    auth: Annotated[
        tuple[Name, ...], BeforeValidator(values.split), AfterValidator(values.distinct), Field(min_length=1)
    ] = _setting(
        "How callers are told apart: authenticators, the first that knows one decides. `none` lets everybody do "
        "everything, and is for loopback and Unix sockets only.",
        "names of authenticators, comma-separated, or with a loopback host or a Unix socket none",
        ("token",),
    )
    auth_tokens: Annotated[
        tuple[Annotated[Token, BeforeValidator(values.token)], ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct_tokens),
    ] = _setting(
        "Callers' tokens, or `@FILE` with one a line and # comments, in which `portico token hash` puts "
        "hashes for secrets. Default: one admin token, made at the first start and kept in `data_dir`.",
        "name:secret or name:secret:admin, comma-separated, or @FILE with one a line; "
        "in names letters, digits and ._@-, in secrets letters, digits and ._~+/=-, or sha256$ and a hash",
        (),
        secret=True,
        reloadable=True,
    )
    api_prefix: Annotated[str, AfterValidator(values.url_prefix)] = _setting(
        "Path that the API lies under.",
        "a path such as /claude or /a/b, without a / at its end, of letters, digits and ._~-",
        "/claude",
    )
    audit_log: Annotated[AbsolutePath | None, BeforeValidator(values.path_or_off)] = _setting(
        "File for the audit log: a JSON line for each thing that a caller changes or is refused, without content; mode "
        "0600. Default: `audit.jsonl` in `data_dir`.",
        "a path, or off",
        default_factory=cast(Callable[[], Any], lambda known: known["data_dir"] / "audit.jsonl"),
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "Least level that is logged.", "debug, info, warning, error", "info"
    )
    log_format: Literal["text", "json"] = _setting("Form of a log line.", "text, json", "text")

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

    @field_validator("budget_usd_per_day")
    @classmethod
    def _counted_by_the_gateway(cls, budget: float | None, info: ValidationInfo) -> float | None:
        found = info.data
        if budget is None or not {"key_gateway", "anthropic_api_key", "claude_code_oauth_token"} <= found.keys():
            return budget
        if not found["key_gateway"]:
            raise ValueError("with key_gateway=off nobody counts what the model costs")
        if found["anthropic_api_key"] is None and found["claude_code_oauth_token"] is None:
            raise ValueError("without anthropic_api_key or claude_code_oauth_token there is no gateway to count")
        if values.another_provider(found.get("agent_env", ())):
            raise ValueError("agents that agent_env sends to another provider are not counted")
        return budget

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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def accepts(name: str) -> str:
    """What the setting accepts, for error lines and `--help`."""
    return str(_extra(name)["accepts"])


def is_secret(name: str) -> bool:
    """Whether the setting's value, or a part of it, must not be shown."""
    return bool(_extra(name)["secret"])


def reloadable(name: str) -> bool:
    """Whether a server that runs takes a new value, at SIGHUP."""
    return bool(_extra(name)["reloadable"])


def _extra(name: str) -> dict[str, Any]:
    return cast(dict[str, Any], Settings.model_fields[name].json_schema_extra)
