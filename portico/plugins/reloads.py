"""What takes new settings while the server runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portico.config.settings import Settings

log = logging.getLogger("portico")


class Reloads:
    """Functions by the name of what they reload, such as ``auth_tokens``.

    Each is given settings that are free of mistakes. It must take all of them or nothing, quickly, as the event loop
    waits for it. One that raises is logged, and is in nobody's way.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[Settings], None]] = {}

    def add(self, name: str, function: Callable[[Settings], None]) -> None:
        self._functions[name] = function

    def run(self, settings: Settings) -> list[str]:
        """The names of what has taken ``settings``."""
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
