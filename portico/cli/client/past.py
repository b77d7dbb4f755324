"""What a session's last events tell about its turns. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from portico.cli.client.api import Event
from portico.cli.client.transcript import Piece, Transcript

STREAMED = ("delta", "thinking")  # the finished message says it again


@dataclass(slots=True)
class PastTurn:
    """``events`` are those that are known: the turn may have begun before them, and go on after them."""

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
    """The turns to which ``events`` belong, in the order of their first one."""
    turns: dict[str, PastTurn] = {}
    for event in events:
        if turn_id := event.get("turn_id"):
            turns.setdefault(turn_id, PastTurn(turn_id)).events.append(event)
    return list(turns.values())
