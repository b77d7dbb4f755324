"""What lines of the CLI come to: events for others, and what the driver itself has to do or know."""

from __future__ import annotations

from dataclasses import dataclass

from portico.core.agent import OwnTurn
from portico.core.events import AgentEvent, Complete


@dataclass(frozen=True, slots=True)
class Send:
    """A line that has to go to the CLI."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a turn: of the message ``uuid``, or (None) of one that the agent had started by itself."""

    uuid: str | None
    complete: Complete


@dataclass(frozen=True, slots=True)
class Taken:
    """The running turn has taken up the message ``uuid``."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The message ``uuid``, meant for the running turn, was dropped: it is as if it had never been sent."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The CLI has left its conversation for a new one."""

    conversation: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The CLI's answer to a control request. ``error`` is None where it has done what was asked."""

    request_id: str
    error: str | None


Item = AgentEvent | Send | Done | Taken | Refused | Moved | Answered | OwnTurn
