"""The driver ``claude-code``: sessions of the real `claude` program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico.plugins.markers import hookimpl

if TYPE_CHECKING:
    from portico.core.agent import AgentDriver
    from portico.plugins.context import Context


def _create(context: Context) -> AgentDriver:
    from portico.plugins.claude_code.driver import create

    return create(context)


@hookimpl
def portico_drivers() -> Mapping[str, Callable[[Context], AgentDriver]]:
    return {"claude-code": _create}
