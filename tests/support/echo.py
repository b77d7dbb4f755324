"""A driver whose agents have no process: for tests of what carries events, not of what makes them.

A query is text, which comes back word by word, or a JSON object: ``deltas`` pieces (null: endlessly many) of ``size``
bytes, ``gap`` seconds apart; ``fail`` ends it in an error.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio

from portico.core.agent import Agent, AgentOptions, AgentSpec, Decision, OwnTurn, Turn
from portico.core.errors import AgentFailed
from portico.core.events import AgentEvent, Complete, Delta, ErrorEvent


class EchoAgent:
    def __init__(self) -> None:
        self._stop = anyio.Event()
        self._closed = False

    async def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        self._stop = anyio.Event()
        text = turn.content if isinstance(turn.content, str) else json.dumps(turn.content)
        pieces, gap, fail = _script(text)
        number = 0
        while (piece := pieces(number)) is not None:
            if self._closed:
                raise AgentFailed("the agent was closed")
            if self._stop.is_set():
                yield Complete(type="complete", stop_reason="interrupted", usage={}, cost_usd=0.0)
                return
            yield Delta(type="delta", content=piece, message_id="m", index=0)
            number += 1
            with anyio.move_on_after(gap):
                await (self._stop.wait() if gap else anyio.lowlevel.checkpoint())
        if fail:
            yield ErrorEvent(type="error", error="as was asked", code="api_error")
        yield Complete(type="complete", stop_reason="error" if fail else "end_turn", usage={}, cost_usd=0.0)

    async def watch(self) -> OwnTurn:
        await anyio.sleep_forever()
        raise AssertionError

    async def claim(self, spec: AgentSpec) -> None:
        raise AgentFailed("nobody starts echoes ahead")

    async def configure(self, options: AgentOptions) -> None:
        pass

    async def steer(self, turn: Turn) -> None:
        raise AgentFailed("an echo cannot be steered")

    async def interrupt(self) -> None:
        self._stop.set()

    async def answer(self, request_id: str, decision: Decision) -> None:
        raise AgentFailed("nothing was asked")

    async def close(self) -> None:
        self._closed = True
        self._stop.set()


class EchoDriver:
    name = "echo"
    capabilities = frozenset({"interrupt"})

    def fixed(self, options: AgentOptions) -> AgentOptions:
        return options

    async def open(self) -> None:
        pass

    async def check(self) -> None:
        pass

    async def start(self, spec: AgentSpec) -> Agent:
        return EchoAgent()

    async def close(self) -> None:
        pass


def _script(text: str):  # type: ignore[no-untyped-def]
    if not text.startswith("{"):
        words = text.split(" ")
        return lambda n: words[n] if n < len(words) else None, 0.0, False
    asked = json.loads(text)
    count, piece = asked.get("deltas", 1), "x" * asked.get("size", 5)
    return lambda n: piece if count is None or n < count else None, asked.get("gap", 0.0), asked.get("fail", False)
