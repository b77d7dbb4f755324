"""The turns of a session that wait, in the order in which they will run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from portico.core.agent import Turn


class TurnQueue:
    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()
        self._overtaking: set[str] = set()
        self._first: set[str] = set()  # these are always at the head of the queue

    def __len__(self) -> int:
        return len(self._turns)

    def __contains__(self, turn_id: object) -> bool:
        return any(turn.turn_id == turn_id for turn in self._turns)

    @property
    def first(self) -> str | None:
        """The id of the turn that runs next."""
        return self._turns[0].turn_id if self._turns else None

    def add(self, turn: Turn) -> None:
        self._turns.append(turn)

    def put_back(self, turn: Turn, place: int) -> None:
        """Insert the turn at ``place``, counted from 0, or at the end if fewer turns wait."""
        self._turns.insert(place, turn)

    def push_in(self, turn: Turn, place: int) -> None:
        """Do as `put_back`, but stay behind the turns of `put_first`."""
        self._turns.insert(max(place, len(self._first)), turn)

    def overtake(self, turn: Turn, place: int) -> None:
        """Do as `push_in`, but stay also behind the turns that have overtaken others before."""
        place = max(place, len(self._first))
        while place < len(self._turns) and self._turns[place].turn_id in self._overtaking:
            place += 1
        self._overtaking.add(turn.turn_id)
        self._turns.insert(place, turn)

    def put_first(self, turns: Sequence[Turn]) -> None:
        """Insert ``turns`` in their order before all others, but behind those that were put first earlier."""
        for turn in turns:
            self._turns.insert(len(self._first), turn)
            self._first.add(turn.turn_id)

    def take(self) -> Turn:
        """Remove and return the turn that runs next. Raises `IndexError` if none waits."""
        turn = self._turns.popleft()
        self._forget(turn)
        return turn

    def remove(self, turn_id: str) -> tuple[Turn, int] | None:
        """Remove a turn, and return it with its place, for `put_back`; None if it does not wait."""
        for place, turn in enumerate(self._turns):
            if turn.turn_id == turn_id:
                del self._turns[place]
                self._forget(turn)
                return turn, place
        return None

    def _forget(self, turn: Turn) -> None:
        self._overtaking.discard(turn.turn_id)
        self._first.discard(turn.turn_id)
