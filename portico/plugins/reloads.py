"""The parts that take new settings while the server runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portico.config.settings import Settings

log = logging.getLogger("portico")


class Reloads:
    """Functions, by the name of what they reload, such as ``auth_tokens``.

    Each receives settings without mistakes. It must apply all of them or none, and quickly, because the event loop
    waits for it. If one raises, the error is logged and the others still run.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[Settings], None]] = {}

    def add(self, name: str, function: Callable[[Settings], None]) -> None:
        self._functions[name] = function

    def run(self, settings: Settings) -> list[str]:
        """Run all functions; return the names of those that have taken ``settings``."""
        done = []
        for name, function in self._functions.items():
            try:
                function(settings)
            except Exception as error:
                log.error("%s stays as it was: %s", name, error)
                log.debug("reload of %s", name, exc_info=True)
            else:
                done.append(name)
        return done
