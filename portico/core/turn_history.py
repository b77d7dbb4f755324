"""The part of a session that its running turn writes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from portico.core.agent import AgentOptions
from portico.core.events import Aside, EventBody
from portico.core.state import State


class History(Protocol):
    """The part of a session that a turn needs."""

    async def write(self, bodies: Sequence[EventBody], *, turn_id: str, state: State | None = None) -> None:
        """Add events of the turn and, if ``state`` differs from the current one, the change of state after them."""

    def note(self, event: Aside) -> Sequence[EventBody]:
        """Note what the agent says about its work behind the turn. Return the events to write."""

    def note_mode(self, mode: str) -> tuple[Sequence[EventBody], AgentOptions | None]:
        """Note the agent's new permission mode. Return the events to write, and the options to go back to, or None."""

    def note_model(self, model: str) -> Sequence[EventBody]:
        """Note the agent's new model. Return the events to write."""
