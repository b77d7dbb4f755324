"""One turn of an agent, followed beside a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, cast

import anyio

from portico.core.agent import Agent, OwnTurn, Turn
from portico.core.events import AgentEvent
from portico.testing.background import background


@contextmanager
def bounded(seconds: float, what: str) -> Iterator[None]:
    """Fails the test where the block takes longer."""
    try:
        with anyio.fail_after(seconds) as scope:
            yield
    except TimeoutError:
        if not scope.cancelled_caught:
            raise
        raise AssertionError(f"{what} took longer than {seconds:g} s") from None


class Following:
    """The ``events`` of a turn so far. Once it is `over`, ``failure`` is what its `run` has raised, if it did."""

    def __init__(self, seconds: float) -> None:
        self.events: list[AgentEvent] = []
        self.failure: Exception | None = None
        self.over = anyio.Event()
        self._seconds = seconds
        self._changed = anyio.Event()

    async def run(self, agent: Agent, turn: Turn | OwnTurn) -> None:
        try:
            async with aclosing(cast(Any, agent.run(turn))) as events:
                async for event in events:
                    self.events.append(event)
                    self._wake()
        except Exception as failure:
            self.failure = failure
        finally:
            self.over.set()
            self._wake()

    async def until(self, found: Callable[[AgentEvent], bool], what: str) -> AgentEvent:
        """The first event that ``found`` is true of; fails the test where none comes."""
        with bounded(self._seconds, f"waiting for {what}"):
            seen = 0
            while True:
                for event in self.events[seen:]:
                    if found(event):
                        return event
                seen = len(self.events)
                if self.over.is_set():
                    kinds = [event["type"] for event in await self.end()]
                    raise AssertionError(f"a turn ended without {what}: {kinds}")
                await self._changed.wait()

    async def first(self) -> AgentEvent:
        return await self.until(lambda event: True, "the first event of a turn")

    async def asked(self) -> str:
        """The id of the first permission request."""
        event = await self.until(lambda event: event["type"] == "permission_request", "a permission request")
        assert event["type"] == "permission_request"
        return event["request_id"]

    async def end(self, seconds: float | None = None) -> Sequence[AgentEvent]:
        """All events. Fails the test where the turn has raised something."""
        with bounded(seconds or self._seconds, "a turn"):
            await self.over.wait()
        if self.failure is not None:
            raise AssertionError(f"a turn raised {self.failure!r}") from self.failure
        return self.events

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


@asynccontextmanager
async def following(agent: Agent, turn: Turn | OwnTurn, seconds: float) -> AsyncIterator[Following]:
    """Runs the turn beside the block, and leaves it at its end."""
    turn_run = Following(seconds)
    async with background() as tasks:
        tasks.start_soon(turn_run.run, agent, turn)
        yield turn_run
