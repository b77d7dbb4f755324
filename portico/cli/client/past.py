"""The turns in a session's last events. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from portico.cli.client.api import Event
from portico.cli.client.transcript import Piece, Transcript

STREAMED = ("delta", "thinking")  # the finished message repeats it


@dataclass(slots=True)
class PastTurn:
    """A turn. ``events`` are the known ones: the turn may have begun before them, and may continue after them."""

    turn_id: str
    events: list[Event] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return bool(self.events[-1]["type"] == "complete")

    @property
    def whole(self) -> bool:
        return self.complete and self.events[0]["type"] == "query"

    @property
    def settled(self) -> frozenset[str]:
        """The permission requests that are resolved."""
        return frozenset(event["request_id"] for event in self.events if event["type"] == "permission_resolved")

    def pieces(self) -> list[Piece]:
        transcript = Transcript()
        return [piece for event in self.events if event["type"] not in STREAMED for piece in transcript.feed(event)]


def past_turns(events: Sequence[Event]) -> list[PastTurn]:
    """Return the turns of ``events``, in the order of their first event."""
    turns: dict[str, PastTurn] = {}
    for event in events:
        if turn_id := event.get("turn_id"):
            turns.setdefault(turn_id, PastTurn(turn_id)).events.append(event)
    return list(turns.values())
