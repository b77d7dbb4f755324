"""SIGHUP: the settings are read again, and the parts that can take new settings while the server runs do so."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import AbstractAsyncContextManager

from anyio import to_thread

from portico.config.load import Loaded, SettingsError
from portico.config.settings import Settings, facts
from portico.plugins.reloads import Reloads

log = logging.getLogger("portico")


def ends_with_terminal() -> bool:
    """Tell whether this process ends with its terminal, so not under ``nohup``. Call before a handler for SIGHUP is
    set.
    """
    return _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


async def reload_at(
    hangups: AsyncIterable[signal.Signals],
    loaded: Loaded,
    load: Callable[[], Loaded],
    to: Reloads,
    *,
    terminal: bool,
    during: Callable[[], AbstractAsyncContextManager[None]],
) -> None:
    """At each of ``hangups`` pass the settings from ``load`` on ``to`` the parts that take them. A mistake changes
    nothing.

    ``loaded`` is what the server was started with. With ``terminal`` the server ends with its terminal. Each reload
    happens within ``during``.
    """
    async for _ in hangups:
        if terminal and not _has_terminal():  # a server without a terminal would stay behind unseen
            log.info("SIGHUP: the terminal is gone")
            signal.raise_signal(signal.SIGTERM)
            continue
        async with during():
            await _reload(loaded, load, to)


async def _reload(loaded: Loaded, load: Callable[[], Loaded], to: Reloads) -> None:
    try:
        found = await to_thread.run_sync(load)
    except SettingsError as mistakes:
        for line in mistakes.lines:
            log.error("SIGHUP: %s", line)
        log.error("SIGHUP: nothing was reloaded")
        return
    except Exception as error:  # the working folder is gone, say
        log.error("SIGHUP: nothing was reloaded: %s: %s", type(error).__name__, error)
        log.debug("reload", exc_info=True)
        return
    for warning in found.warnings:
        log.warning("%s", warning)
    if later := ", ".join(_only_at_a_start(loaded, found)):
        log.warning("SIGHUP: %s: changed, which needs a restart", later)
    log.info("SIGHUP: reloaded %s", ", ".join(to.run(found.settings)) or "nothing")


def _only_at_a_start(old: Loaded, new: Loaded) -> Iterator[str]:
    for name in Settings.model_fields:
        if not facts(name).reloadable and getattr(old.settings, name) != getattr(new.settings, name):
            yield name
    for prefix, model in old.plugin_settings.items():
        for name in type(model).model_fields:
            if getattr(model, name) != getattr(new.plugin_settings[prefix], name):
                yield f"{prefix}_{name}"


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
