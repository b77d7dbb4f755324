"""The driver ``echo``: agents without a process or a model that repeat what they are given (see `script`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.core.agent import AgentDriver
    from portico.plugins.context import Context


def _create(context: Context) -> AgentDriver:
    from portico.plugins.echo.driver import EchoDriver

    return EchoDriver()


@hookimpl
def portico_drivers() -> Mapping[str, Callable[[Context], AgentDriver]]:
    return {"echo": _create}
