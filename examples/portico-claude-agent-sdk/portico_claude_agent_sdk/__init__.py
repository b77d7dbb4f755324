"""The driver ``claude-agent-sdk``: sessions of the `claude` program, through the official SDK's client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from portico import hookimpl

if TYPE_CHECKING:
    from portico import AgentDriver, Context


def _create(context: Context) -> AgentDriver:
    from portico_claude_agent_sdk.driver import create

    return create(context)


@hookimpl
def portico_drivers() -> Mapping[str, Callable[[Context], AgentDriver]]:
    return {"claude-agent-sdk": _create}
