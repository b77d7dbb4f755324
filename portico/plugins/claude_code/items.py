"""The meaning of the CLI's lines: events for clients, and what the driver itself has to do or know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from portico.core.agent import OwnTurn
from portico.core.events import AgentEvent, Complete


@dataclass(frozen=True, slots=True)
class Send:
    """A line that must be sent to the CLI."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a turn: of the message ``uuid``, or, with None, of a turn that the agent started by itself."""

    uuid: str | None
    complete: Complete


@dataclass(frozen=True, slots=True)
class Taken:
    """The running turn has taken up the message ``uuid``."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The message ``uuid``, meant for the running turn, was dropped, as if it had never been sent."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The CLI has left its conversation for a new one."""

    conversation: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The CLI's answer to a control request. ``error`` is None if the request succeeded."""

    request_id: str
    error: str | None
    response: Mapping[str, Any] = field(default_factory=dict, compare=False)


Item = AgentEvent | Send | Done | Taken | Refused | Moved | Answered | OwnTurn
