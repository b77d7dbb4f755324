"""A complete server: a host behind listeners, stopped by signals, in a hardened process."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio

from portico.config.load import Loaded, secret_variables
from portico.config.supervision import supervision
from portico.core.agent import needs_credentials
from portico.core.errors import PorticoError
from portico.plugins.registry import Registry
from portico.server.hardening import blank_environment, close_to_others
from portico.server.hosting import Host, hosting
from portico.server.lease import advertise
from portico.server.memory import give_back_what_is_large, keeping_what_is_there
from portico.server.reloading import ends_with_terminal, reload_at
from portico.server.service_manager import ServiceManager
from portico.server.serving import Serving
from portico.server.stopping import StopSignals
from portico.transports.base import TransportFailed
from portico.transports.inherited import take_over

STOP_SECONDS = 60.0
"""Seconds that a stop may take beside ``drain_timeout``. Turns, streams, agents and the store have their own limits."""
HURRY_SECONDS = 15.0
"""The same after a second signal."""

log = logging.getLogger("portico")

Ready = Callable[[tuple[str, ...]], Coroutine[Any, Any, None]]


async def serve(
    loaded: Loaded, registry: Registry, environ: Mapping[str, str], *, ready: Ready, reload: Callable[[], Loaded]
) -> None:
    """Serve until SIGTERM or SIGINT; ``ready`` is called with the addresses once all transports are reachable.

    The first signal drains: new work is refused, reads go on, running turns get ``drain_timeout`` seconds. A second one
    ends the drain at once. At SIGHUP ``reload`` reads the settings again, in a thread of its own. Raises `PorticoError`
    if a requested part cannot start.
    """
    settings = loaded.settings
    supervised = supervision(environ, os.getpid())
    manager = ServiceManager(supervised)
    close_to_others()
    give_back_what_is_large()
    blank_environment(secret_variables(registry.settings))
    for warning in loaded.warnings:
        log.warning("%s", warning)
    for name, reason in registry.failures.items():
        log.error("the plugin %s is left out: %s", name, reason)
    failures: Mapping[str, str] = {}
    with ExitStack() as stack:
        sockets = take_over(supervised.descriptors)
        for _, each in sockets:
            stack.enter_context(each)
        if sockets and not {"http", "websocket"} & set(settings.networking_mode):
            log.warning("networking_mode is without http: nothing may answer on the sockets that were passed on")
        stack.callback(_ignore_signals)
        stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
        stop = StopSignals(stack.enter_context(anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT)))
        terminal = ends_with_terminal()
        hangups = stack.enter_context(anyio.open_signal_receiver(signal.SIGHUP))
        async with anyio.create_task_group() as listening:
            listening.start_soon(stop.listen)
            listening.start_soon(manager.keep_awake)
            with stop.start_scope:
                async with (
                    hosting(loaded, registry, environ, transports=settings.networking_mode, sockets=sockets) as host,
                    anyio.create_task_group() as transporting,
                ):
                    serving = Serving(host.engine, host.transports)
                    addresses = await serving.start(transporting)
                    stop.started()
                    stack.enter_context(
                        advertise(settings.data_dir, _for_clients(addresses), settings.api_prefix, settings.tls_cert)
                    )
                    status = f"serving on {', '.join(addresses)}"
                    log.info("%s", status)
                    await manager.ready(status)
                    stack.enter_context(keeping_what_is_there())
                    reloads = host.context.reloads
                    reloading = partial(reload_at, terminal=terminal, during=lambda: manager.reloading(status))
                    transporting.start_soon(reloading, hangups, loaded, reload, reloads)
                    async with anyio.create_task_group() as greeting:
                        greeting.start_soon(ready, addresses)
                        greeting.start_soon(_warn, host)
                        reason = await stop.asked(serving.over)
                        greeting.cancel_scope.cancel()
                    log.info("%s: draining; once more stops at once", reason)
                    _be_gone_within(settings.drain_timeout + STOP_SECONDS)
                    await manager.stopping(f"{reason}: draining", settings.drain_timeout + STOP_SECONDS)
                    await _drain(host, stop)
                    failures = serving.failures if serving.over.is_set() else {}
                    transporting.cancel_scope.cancel()
            listening.cancel_scope.cancel()
    log.info("stopped")
    if failures:
        raise TransportFailed(f"no transport was left: {'; '.join(failures.values())}")


def _for_clients(addresses: tuple[str, ...]) -> str:
    """Return the address at which the program's own commands find the server: they speak HTTP."""
    return next((each for each in addresses if each.startswith(("http:", "https:", "unix:"))), addresses[0])


def _be_gone_within(seconds: float) -> None:
    """Let the kernel end this process if a plugin blocks it: no event loop and no thread can prevent that.

    Agents receive a signal when their parent dies, and the next start clears up what they leave.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _ignore_signals() -> None:
    """Ignore signals from now on: the rest of a stop takes no time, and one more signal would make it a failure."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


async def _warn(host: Host) -> None:
    """Report at the start what the first client would otherwise find out."""
    settings = host.context.settings
    without = settings.anthropic_api_key is None and settings.claude_code_oauth_token is None
    if without and needs_credentials(host.drivers[settings.driver[0]]):
        log.warning("there are no credentials for the model API: set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN")
    if "none" in settings.auth:
        log.warning("auth=none: who reaches this server may do everything in every session, its agents' tools included")
    try:
        await host.engine.check_driver()
    except PorticoError as problem:
        log.warning("sessions cannot be opened: %s", problem.detail)


async def _drain(host: Host, stop: StopSignals) -> None:
    async with anyio.create_task_group() as draining:

        async def hurry() -> None:
            await stop.asked_again()
            log.info("stopping at once")
            _be_gone_within(HURRY_SECONDS)
            host.engine.hurry()
            draining.cancel_scope.cancel()

        draining.start_soon(hurry)
        await host.drain()
        draining.cancel_scope.cancel()
