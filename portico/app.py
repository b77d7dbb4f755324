"""The composition root: the only place that knows every part. It connects them, and stops them in order."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from portico.audit import AuditLog
from portico.config.load import Loaded, SettingsError, agent_environment, secret_variables, ziti_environment
from portico.config.settings import Settings
from portico.config.values import another_provider
from portico.core.audit import OK, NoAudit
from portico.core.engine import Engine
from portico.core.errors import PorticoError
from portico.core.intake import BESIDE, Intake
from portico.core.observer import Observer
from portico.core.policy import Policy
from portico.core.quota import StreamQuota
from portico.core.store import EventStore
from portico.core.tickets import Tickets
from portico.gateway.gateway import Gateway
from portico.gateway.ledger import Ledger
from portico.gateway.upstream import API, Upstream
from portico.hardening import blank_environment, close_to_others
from portico.keys import ticket_key
from portico.lease import advertise, hold
from portico.memory import give_back_what_is_large, keeping_what_is_there
from portico.plugins.context import Context
from portico.plugins.metrics.store import metered
from portico.plugins.registry import PluginError, Registry
from portico.relied import relied_on
from portico.reloading import ends_with_terminal, reload_at
from portico.serving import Serving
from portico.transports.base import Routes, TransportFailed

STOP_SECONDS = 60.0
"""What a stop may take beside ``drain_timeout``; turns, streams, agents and the store have limits of their own."""
HURRY_SECONDS = 15.0
"""The same after a second signal."""

MEMBERS: Mapping[str, Sequence[str]] = {
    "transport": ("serve",),
    "routes": ("routes",),
    "driver": ("capabilities", "fixed", "open", "check", "start", "close"),
    "store": tuple(name for name in vars(EventStore) if not name.startswith("_")),
    "authenticator": ("name", "authenticate"),
    "observer": ("observe",),
}
"""What an object of each kind must have."""

log = logging.getLogger("portico")

T = TypeVar("T")
Ready = Callable[[tuple[str, ...]], Coroutine[Any, Any, None]]


async def serve(
    loaded: Loaded, registry: Registry, environ: Mapping[str, str], *, ready: Ready, reload: Callable[[], Loaded]
) -> None:
    """Serve until SIGTERM or SIGINT; ``ready`` is called with the addresses once all transports are reachable.

    The first signal drains: new work is refused, reads go on, running turns get ``drain_timeout`` seconds. A second one
    ends the drain at once. At SIGHUP ``reload`` reads the settings again, on a thread of its own. Raises `PorticoError`
    where something that was asked for cannot start.
    """
    settings = loaded.settings
    close_to_others()
    give_back_what_is_large()
    blank_environment(secret_variables())
    for warning in loaded.warnings:
        log.warning("%s", warning)
    for name, reason in registry.failures.items():
        log.error("the plugin %s is left out: %s", name, reason)
    select = partial(_select, loaded)
    make_authenticators = {name: select("auth", registry.authenticator, name) for name in settings.auth}
    make_transports = {name: select("networking_mode", registry.transport, name) for name in settings.networking_mode}
    make_store = select("store", registry.store)
    make_drivers = {name: select("driver", registry.driver, name) for name in settings.driver}
    with ExitStack() as stack:
        stack.callback(_ignore_signals)
        stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
        signals = stack.enter_context(anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT))
        terminal = ends_with_terminal()
        hangups = stack.enter_context(anyio.open_signal_receiver(signal.SIGHUP))
        lease = stack.enter_context(hold(settings.data_dir))
        passed_on = agent_environment(settings, environ)
        gateway = _gateway(settings, passed_on)
        context = Context(
            settings,
            settings.data_dir,
            passed_on,
            dict(loaded.plugin_settings),
            ziti_environment=ziti_environment(environ),
            tickets=Tickets(ticket_key(settings.data_dir)),
            stream_quota=StreamQuota(settings.max_streams_per_principal),
            intake=Intake(max(settings.max_body, settings.max_frame) + BESIDE),
            settings_files=loaded.files,
            gateway=gateway,
        )
        made = [_made("authenticator", name, make, context) for name, make in make_authenticators.items()]
        context = context.with_authenticators(*made)
        routes: dict[str, Routes] = _optional("routes", registry.routes, context)
        observers: dict[str, Observer] = _optional("observer", registry.observers, context)
        context = context.with_routes(routes)
        transports = {name: _made("transport", name, make, context) for name, make in make_transports.items()}
        drivers = {name: _made("driver", name, make, context) for name, make in make_drivers.items()}
        audit = AuditLog(settings.audit_log) if settings.audit_log else None
        if audit is not None:
            audit.check()
        engine = Engine(
            audit=audit or NoAudit(),
            store=metered(_made("store", settings.store, make_store, context), context.metrics),
            drivers=drivers,
            default_driver=settings.driver[0],
            default_model=settings.claude_model,
            policy=policy(settings, relied_on(settings, loaded.files, passed_on)),
            observers=observers,
            check=lease.check,
        )
        serving = Serving(engine, transports)
        async with anyio.create_task_group() as working:
            if audit is not None:
                working.start_soon(audit.run)
                context.reloads.add("audit_log", audit.reopen)
            engine.audit.note("server.start", OK)
            if gateway is not None:
                await working.start(gateway.run)
            if await _unless_stopped(signals, partial(_begin, working, engine)) is None:
                working.cancel_scope.cancel()
                return
            async with anyio.create_task_group() as transporting:
                addresses = await _unless_stopped(signals, partial(serving.start, transporting))
                if addresses is None:
                    transporting.cancel_scope.cancel()
                    working.cancel_scope.cancel()
                    return
                stack.enter_context(
                    advertise(settings.data_dir, _for_clients(addresses), settings.api_prefix, settings.tls_cert)
                )
                log.info("serving on %s", ", ".join(addresses))
                stack.enter_context(keeping_what_is_there())
                transporting.start_soon(partial(reload_at, terminal=terminal), hangups, loaded, reload, context.reloads)
                async with anyio.create_task_group() as greeting:
                    greeting.start_soon(ready, addresses)
                    greeting.start_soon(_warn, engine, settings)
                    name = await _told_to_stop(signals, serving)
                    greeting.cancel_scope.cancel()
                log.info("%s: draining; once more stops at once", name)
                _be_gone_within(settings.drain_timeout + STOP_SECONDS)
                await _drain(engine, signals, settings.drain_timeout)
                transporting.cancel_scope.cancel()
            engine.audit.note("server.stop", OK)
            working.cancel_scope.cancel()
    log.info("stopped")
    if serving.over.is_set():
        reasons = [reason for name, reason in engine.failed.items() if name.startswith("transport ")]
        raise TransportFailed(f"no transport was left: {'; '.join(reasons)}")


async def _begin(tasks: TaskGroup, engine: Engine) -> bool:
    await tasks.start(engine.run)
    return True


async def _unless_stopped(signals: AsyncIterator[signal.Signals], begin: Callable[[], Awaitable[T]]) -> T | None:
    """What ``begin`` returns; None where a signal came first."""
    result: T | None = None
    stopped = False
    async with anyio.create_task_group() as tasks:

        async def told() -> None:
            nonlocal stopped
            log.info("%s: stopping", (await anext(signals)).name)
            stopped = True
            tasks.cancel_scope.cancel()

        tasks.start_soon(told)
        result = await begin()
        tasks.cancel_scope.cancel()
    return None if stopped else result  # it may have come with the last step of the start


async def _told_to_stop(signals: AsyncIterator[signal.Signals], serving: Serving) -> str:
    reason = "no transport is left"
    async with anyio.create_task_group() as waiting:

        async def told() -> None:
            nonlocal reason
            reason = (await anext(signals)).name
            waiting.cancel_scope.cancel()

        waiting.start_soon(told)
        await serving.over.wait()
        waiting.cancel_scope.cancel()
    return reason


def _for_clients(addresses: tuple[str, ...]) -> str:
    """The address at which the program's own commands find the server: they speak HTTP."""
    return next((each for each in addresses if each.startswith(("http:", "https:", "unix:"))), addresses[0])


def _made(kind: str, name: str, make: Callable[[Context], T], context: Context) -> T:
    """What the factory makes. Raises `PorticoError`: what was asked for by name must be there."""
    try:
        made = make(context)
    except (PorticoError, SettingsError):
        raise
    except Exception as error:
        log.debug("%s %s", kind, name, exc_info=True)
        raise PluginError(f"the {kind} {name} can't be made: {type(error).__name__}: {error}") from error
    if isinstance(made, Coroutine):
        made.close()
        raise PluginError(f"the {kind} {name} can't be made: its factory is async")
    lacking = [member for member in MEMBERS[kind] if not hasattr(made, member)]
    if lacking and (made is not None or kind not in ("routes", "observer")):
        what = type(made).__name__
        raise PluginError(f"the {kind} {name} can't be made: its factory returned {what}, without {', '.join(lacking)}")
    return made


def _optional(kind: str, factories: Mapping[str, Callable[[Context], T | None]], context: Context) -> dict[str, T]:
    """What those factories make that make something: nobody has asked for them by name."""
    found = {}
    for name, make in factories.items():
        try:
            made = _made(kind, name, make, context)
        except (PorticoError, SettingsError) as error:
            log.error("%s", error)
            continue
        if made is not None:
            found[name] = made
    return found


def _select(loaded: Loaded, setting: str, find: Callable[[str], T], name: str | None = None) -> T:
    """What the setting names. Raises SettingsError, which lists what there is."""
    name = name or getattr(loaded.settings, setting)
    try:
        return find(name)
    except PluginError as error:
        given = setting if loaded.sources[setting] == "default" else loaded.sources[setting].split()[-1]
        raise SettingsError([f"{given}={name}: {error}"]) from None


def _be_gone_within(seconds: float) -> None:
    """Let the kernel end this process, should a plugin hold it up: no event loop and no thread can hinder that.

    Agents have their parent's death signal, and what they leave the next start clears up.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _ignore_signals() -> None:
    """What is left of a server that has stopped takes no time, and one more signal would make a failure of it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


async def _warn(engine: Engine, settings: Settings) -> None:
    """Say at the start what would otherwise be found out by the first client."""
    needs_credentials = settings.driver[0].startswith("claude-")
    if needs_credentials and settings.anthropic_api_key is None and settings.claude_code_oauth_token is None:
        log.warning("there are no credentials for the model API: set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN")
    if "none" in settings.auth:
        log.warning("auth=none: who reaches this server may do everything in every session, its agents' tools included")
    try:
        await engine.check_driver()
    except PorticoError as problem:
        log.warning("sessions cannot be opened: %s", problem.detail)


async def _drain(engine: Engine, signals: AsyncIterator[signal.Signals], seconds: float) -> None:
    async with anyio.create_task_group() as draining:

        async def hurry() -> None:
            await anext(signals)
            log.info("stopping at once")
            _be_gone_within(HURRY_SECONDS)
            engine.hurry()
            draining.cancel_scope.cancel()

        draining.start_soon(hurry)
        await engine.drain(seconds)
        draining.cancel_scope.cancel()


def _gateway(settings: Settings, environment: Mapping[str, str]) -> Gateway | None:
    """None where agents have the credential themselves, where there is none, and where another provider is asked."""
    key, token = settings.anthropic_api_key, settings.claude_code_oauth_token
    if not settings.key_gateway or (key is None and token is None) or another_provider(settings.agent_env):
        return None
    upstream = Upstream(
        settings.anthropic_base_url or API,
        api_key=key.get_secret_value() if key else None,
        oauth_token=token.get_secret_value() if token else None,
        environment=environment,
    )
    return Gateway(upstream, Ledger(settings.data_dir / "spending.json", settings.budget_usd_per_day))


def policy(settings: Settings, files: Sequence[Path] = ()) -> Policy:
    """What the operator's settings allow; ``files`` are what the server relies on."""
    return Policy(
        data_dir=settings.data_dir,
        workspace_roots=settings.workspace_roots,
        permission_modes=settings.permission_modes,
        max_sessions=settings.max_sessions,
        max_sessions_per_principal=settings.max_sessions_per_principal,
        max_turns_per_minute=settings.max_turns_per_minute,
        max_processes=settings.max_processes or settings.max_sessions,
        pool_size=settings.pool_size,
        max_queued_turns=settings.max_queued_turns,
        turn_timeout=settings.turn_timeout,
        permission_timeout=settings.permission_timeout,
        session_timeout=settings.session_timeout,
        process_wait=settings.process_wait,
        setting_sources=frozenset(settings.setting_sources),
        allowed_tools=settings.allowed_tools,
        disallowed_tools=settings.disallowed_tools,
        files=tuple(files),
        mcp_servers=settings.mcp_servers,
        allow_client_mcp=settings.allow_client_mcp,
        private_workspaces=settings.sandbox in ("bubblewrap", "required"),
    )
