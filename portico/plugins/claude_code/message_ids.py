"""The ids of the messages that the CLI is sent: each can be told from its turn, also by a later process."""

from __future__ import annotations

from uuid import UUID, uuid5


def message_id(agent_id: str, turn_id: str, *, steered: bool = False) -> str:
    """Return the id of the message of a turn, or of that message as it was handed to a running turn.

    The CLI never runs an id twice. A message that was ``steered`` and is sent again needs another one.
    """
    return str(uuid5(UUID(agent_id), f"{'steered' if steered else 'turn'}:{turn_id}"))
