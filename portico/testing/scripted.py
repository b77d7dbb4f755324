"""A driver whose agents do what a test says, turn by turn, and misbehave where it says so.

gate = Gate()
driver = ScriptedDriver([turn(Delta(type="delta", content="hello"), gate), [Fail(AgentFailed("gone"))]])
async with scripted_engine(tmp_path, driver=driver) as engine:
    ...  # ask something, see "hello", then
    gate.open()
assert driver.agents[0].turns[0].content == "what was asked"
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import anyio

from portico.core.abilities import ABILITIES, LateAnswer
from portico.core.agent import AgentOptions, AgentSpec, Decision, OwnTurn, Turn
from portico.core.errors import AgentFailed, Conflict
from portico.core.events import AgentEvent, Complete, Notice, PermissionRequest, PermissionWithdrawn
from portico.testing.background import background

CAPABILITIES = ABILITIES | {
    *("interrupt", "steer", "permissions", "resume", "claim", "set_model", "set_permission_mode", "late_answers"),
}


class Gate:
    """A step: nothing goes on until the test opens it, or interrupts the turn. ``reached`` is set once that waits."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.opened = anyio.Event()

    def open(self) -> None:
        self.opened.set()


@dataclass(frozen=True, slots=True)
class Ask:
    """A step: asks for permission to use a tool, and waits for the answer, which `ScriptedAgent.decisions` then holds.

    ``more`` are further members of the request: ``suggestions``, ``permission_mode`` ...
    """

    tool_name: str
    input: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = field(default_factory=lambda: uuid4().hex)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TakeUp:
    """A step: waits until a message is handed to the turn, and takes it up."""


@dataclass(frozen=True, slots=True)
class Fail:
    """A step: raises ``error``. One that is no `PorticoError` is what a driver with a fault raises."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Hang:
    """A step: nothing goes on, whoever interrupts, until the agent is closed."""


Step = AgentEvent | Gate | Ask | TakeUp | Fail | Hang


def turn(*steps: Step, stop_reason: str = "end_turn", **usage: int) -> Sequence[Step]:
    """These steps, and a `Complete` behind them. (A turn that does not end well is just a list of steps.)"""
    return [*steps, Complete(type="complete", stop_reason=stop_reason, usage=usage, cost_usd=0.0)]


class ScriptedAgent:
    """Implements `portico.core.agent.Agent`, and keeps what was asked of it, in the order of the calls."""

    def __init__(
        self, spec: AgentSpec, script: deque[Sequence[Step]], abilities: Mapping[str, Any] | None = None
    ) -> None:
        self.spec = spec
        self.turns: list[Turn | OwnTurn] = []
        self.late: list[LateAnswer] = []
        self.steered: list[Turn] = []
        self.decisions: list[tuple[str, Decision]] = []
        self.claims: list[AgentSpec] = []
        self.configured: list[AgentOptions] = []
        self.called: list[str] = []
        self.interrupts = 0
        self.closes = 0
        self._script = script
        self._abilities = abilities or {}
        self._own: deque[OwnTurn] = deque()
        self._handed: deque[Turn] = deque()
        self._asked: str | None = None
        self._interrupted = False
        self._end: Exception | None = None
        self._changed = anyio.Event()

    # --- the test's side

    def begin(self, content: str) -> None:
        """Start a turn of the agent's own: the next one of the script."""
        self._own.append(OwnTurn(content))
        self._wake()

    def die(self, error: Exception | None = None) -> None:
        """End, as an agent does whose process is killed; ``error`` is what everybody is told from now on."""
        self._end = self._end or error or AgentFailed("The agent has exited.")
        self._wake()

    # --- the engine's side

    async def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        self._check()
        self.turns.append(turn)
        self._interrupted = False
        self._handed.clear()
        if not self._script:
            raise AgentFailed(f"The script has no turn for {turn!r}.", code="script_over")
        for step in self._script.popleft():
            self._check()
            if self._interrupted:
                yield Complete(type="complete", stop_reason="interrupted", usage={}, cost_usd=0.0)
                return
            match step:
                case Fail():
                    raise step.error
                case Hang():
                    await self._until(lambda: False)
                case Gate():
                    await self._pass(step)
                case TakeUp():
                    await self._until(lambda: bool(self._handed) or self._interrupted)
                    if self._handed:
                        detail = {"turn_id": self._handed.popleft().turn_id}
                        yield Notice(type="notice", name="steered", detail=detail)
                case Ask(tool_name, given, request_id, more):
                    self._asked = request_id
                    request = PermissionRequest(
                        type="permission_request", request_id=request_id, tool_name=tool_name, input=dict(given)
                    )
                    yield cast(PermissionRequest, {**request, **more})
                    await self._until(lambda: self._asked is None or self._interrupted)
                    if self._asked is not None:
                        self._asked = None
                        yield PermissionWithdrawn(type="permission_withdrawn", request_id=request_id)
                case _:
                    yield step

    async def watch(self) -> OwnTurn:
        await self._until(lambda: bool(self._own))
        return self._own.popleft()

    async def claim(self, spec: AgentSpec) -> None:
        self._check()
        self.claims.append(spec)
        self.spec = spec

    async def configure(self, options: AgentOptions) -> None:
        self._check()
        self.configured.append(options)

    async def steer(self, turn: Turn) -> None:
        self._check()
        self.steered.append(turn)
        self._handed.append(turn)
        self._wake()

    async def interrupt(self) -> None:
        self._check()
        self.interrupts += 1
        self._interrupted = True
        self._wake()

    async def answer(self, request_id: str, decision: Decision) -> None:
        self._check()
        self.decisions.append((request_id, decision))
        if self._asked != request_id:
            raise Conflict(f"No permission request {request_id} is open.", code="already_resolved")
        self._asked = None
        self._wake()

    async def context(self) -> Any:
        return await self._be_able("context")

    async def commands(self) -> Any:
        return await self._be_able("commands")

    async def mcp(self) -> Any:
        return await self._be_able("mcp")

    async def models(self) -> Any:
        return await self._be_able("models")

    async def stop_task(self, task_id: str) -> None:
        await self._be_able("stop_task")

    async def rewind(self, turn_id: str, *, dry_run: bool) -> Any:
        return {**await self._be_able("rewind"), "turn_id": turn_id, "dry_run": dry_run}

    async def _be_able(self, ability: str) -> Any:
        self._check()
        self.called.append(ability)
        match step := self._abilities.get(ability):
            case Fail(error):
                raise error
            case Hang():
                await self._until(lambda: False)
            case Gate():
                step.reached.set()
                await step.opened.wait()
                self._check()
        return {} if isinstance(step, Gate) else step

    async def go_on(self, late: LateAnswer) -> AsyncIterator[AgentEvent]:
        self.late.append(late)
        async for event in self.run(Turn(late.turn_id, "")):
            yield event

    async def part(self) -> Complete:
        await self.close()
        return Complete(type="complete", stop_reason="interrupted", usage={"output_tokens": 1}, cost_usd=1.0)

    async def close(self) -> None:
        self.closes += 1
        self.die(AgentFailed("The agent was closed.", code="agent_closed"))

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _check(self) -> None:
        if self._end is not None:
            raise self._end

    async def _until(self, ready: Callable[[], bool]) -> None:
        self._check()
        while not ready():
            await self._changed.wait()
            self._check()

    async def _pass(self, gate: Gate) -> None:
        async def wake() -> None:
            await gate.opened.wait()
            self._wake()

        async with background() as tasks:
            tasks.start_soon(wake)
            gate.reached.set()
            await self._until(lambda: gate.opened.is_set() or self._interrupted)


class ScriptedDriver:
    """Implements `portico.core.agent.AgentDriver`.

    ``turns`` are done in this order, by whichever agent is asked next. ``starts`` are what a start does first, one for
    each (None, as all later ones: nothing). ``specs`` are the starts that were asked for, ``agents`` those that came
    up, ``closes`` counts the calls. ``abilities`` has an answer for each method of `AgentAbilities`, or a `Gate`,
    `Fail` or `Hang`.
    """

    def __init__(
        self,
        turns: Iterable[Sequence[Step]] = (),
        *,
        name: str = "scripted",
        capabilities: Collection[str] = CAPABILITIES,
        starts: Iterable[Gate | Fail | Hang | None] = (),
        abilities: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.capabilities = frozenset(capabilities)
        self.needs_credentials = False
        self.specs: list[AgentSpec] = []
        self.agents: list[ScriptedAgent] = []
        self.forks: list[tuple[AgentSpec, AgentSpec, Sequence[str] | None, int]] = []
        self.closes = 0
        self._script = deque(turns)
        self._starts = deque(starts)
        self.abilities = abilities

    def fixed(self, options: AgentOptions) -> AgentOptions:
        return AgentOptions()

    async def open(self) -> None: ...

    async def check(self) -> None: ...

    async def start(self, spec: AgentSpec) -> ScriptedAgent:
        self.specs.append(spec)
        match self._starts.popleft() if self._starts else None:
            case Fail(error):
                raise error
            case Hang():
                await anyio.sleep_forever()
            case Gate() as gate:
                gate.reached.set()
                await gate.opened.wait()
        agent = ScriptedAgent(spec, self._script, self.abilities)
        self.agents.append(agent)
        return agent

    async def fork(self, source: AgentSpec, spec: AgentSpec, turns: Sequence[str] | None, own_turns: int) -> None:
        self.forks.append((source, spec, turns, own_turns))

    async def close(self) -> None:
        self.closes += 1
        for agent in self.agents:
            agent.die()
