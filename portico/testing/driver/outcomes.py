"""Helpers that look at how a turn or an agent has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from portico.core.agent import Agent
from portico.core.errors import AgentFailed
from portico.core.events import AgentEvent, Complete
from portico.testing.following import Following


async def watched(agent: Agent) -> Exception | None:
    """The error that watch() has raised."""
    try:
        await agent.watch()
    except Exception as failure:
        return failure
    return None


@contextmanager
def unraised(what: str, *but: type[Exception]) -> Iterator[None]:
    """Fails the test where the block raises anything ``but`` these."""
    try:
        yield
    except but:
        raise
    except Exception as failure:
        raise AssertionError(f"{what} raised {failure!r}") from failure


def text_of(events: Sequence[AgentEvent]) -> str:
    """Return the text of the agent's finished messages in a turn."""
    blocks = [
        block
        for event in events
        if event["type"] == "message" and event["role"] == "assistant" and "parent_tool_use_id" not in event
        for block in event["content"]
    ]
    return "".join(block["text"] for block in blocks if block.get("type") == "text")


def ended(events: Sequence[AgentEvent]) -> Complete:
    """The last event. Fails the test where it is no `Complete`."""
    assert events, "a turn had no events"
    last = events[-1]
    assert last["type"] == "complete", f"a turn ended without complete: {[event['type'] for event in events]}"
    return last


def steered_ids(events: Sequence[AgentEvent]) -> set[str]:
    notices = [event for event in events if event["type"] == "notice" and event["name"] == "steered"]
    return {notice["detail"]["turn_id"] for notice in notices}


def check_closed(turn: Following) -> None:
    """A turn whose agent was closed may end as an interrupted one does."""
    if turn.failure is None:
        ended(turn.events)
    else:
        assert isinstance(turn.failure, AgentFailed), f"the turn of a closed agent raised {turn.failure!r}"
