"""One turn of an agent, followed beside a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Generic, NoReturn, TypeVar, cast

import anyio

from portico.core.agent import Agent, OwnTurn, Turn
from portico.core.events import AgentEvent
from portico.testing.background import background

E = TypeVar("E")


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


class Followed(Generic[E]):
    """The ``events`` so far, of one source. Once it is `over`, ``failure`` is the exception that it raised, if any."""

    def __init__(self, seconds: float) -> None:
        self.events: list[E] = []
        self.failure: Exception | None = None
        self.over = anyio.Event()
        self._seconds = seconds
        self._changed = anyio.Event()

    async def until(self, found: Callable[[E], bool], what: str) -> E:
        """Return the first event that ``found`` is true of; fail the test if none comes."""
        with bounded(self._seconds, self._waiting_for(what)):
            seen = 0
            while True:
                for event in self.events[seen:]:
                    if found(event):
                        return event
                seen = len(self.events)
                if self.over.is_set():
                    self._fail_without(what)
                await self._changed.wait()

    def _waiting_for(self, what: str) -> str:
        return f"waiting for {what}"

    def _fail_without(self, what: str) -> NoReturn:
        raise NotImplementedError

    @contextmanager
    def _until_over(self) -> Iterator[None]:
        """Keep the exception of the block as ``failure``; the events are over at its end."""
        try:
            yield
        except Exception as failure:
            self.failure = failure
        finally:
            self.over.set()
            self._wake()

    def _add(self, event: E) -> None:
        self.events.append(event)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class Following(Followed[AgentEvent]):
    """The events of a turn."""

    async def run(self, agent: Agent, turn: Turn | OwnTurn) -> None:
        with self._until_over():
            async with aclosing(cast(Any, agent.run(turn))) as events:
                async for event in events:
                    self._add(event)

    def _fail_without(self, what: str) -> NoReturn:
        kinds = [event["type"] for event in self._all()]
        raise AssertionError(f"a turn ended without {what}: {kinds}")

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
        return self._all()

    def _all(self) -> Sequence[AgentEvent]:
        if self.failure is not None:
            raise AssertionError(f"a turn raised {self.failure!r}") from self.failure
        return self.events


@asynccontextmanager
async def following(agent: Agent, turn: Turn | OwnTurn, seconds: float) -> AsyncIterator[Following]:
    """Runs the turn beside the block, and leaves it at its end."""
    turn_run = Following(seconds)
    async with background() as tasks:
        tasks.start_soon(turn_run.run, agent, turn)
        yield turn_run
