"""What the engine needs of an agent, and of the driver that starts it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from portico.core.errors import Conflict
from portico.core.events import AgentEvent, Content


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What a client may ask of an agent. None and empty mean the driver's own default."""

    model: str | None = None
    permission_mode: str = "default"
    system_prompt: str | None = None
    append_system_prompt: str | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    mcp_servers: Mapping[str, Any] = field(default_factory=dict)
    max_turns: int | None = None
    setting_sources: tuple[str, ...] = ()

    def with_changes(self, **changes: Any) -> AgentOptions:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """All that a driver needs to start an agent, or to bring one back.

    ``agent_id`` is a UUID and stays the same over the life of a session; ``folder`` is the agent's own (HOME, settings,
    temporary files) and is kept as long; ``cwd`` is where it works. No two live agents ever share an ``agent_id``.
    ``owner`` is the principal whose session it is, None for an agent that was started ahead and not claimed.
    """

    agent_id: str
    folder: Path
    cwd: Path
    options: AgentOptions
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One query: ``turn_id`` is the client's name of it, ``content`` its text or content blocks.

    ``commands``: its text may be a command of the agent's (``/compact``) or name files (``@file``); else it is text.
    """

    turn_id: str
    content: Content
    commands: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a permission request.

    ``remember``: also allow, from now on, what the request suggests (see `suggestions.chosen`); where it suggests
    nothing, the tool. ``remembered``: of what it suggests, what is to be remembered, and nothing else. A driver that
    knows no ``remembered`` remembers too little, and never what is not allowed.
    """

    behavior: Literal["allow", "deny"]
    updated_input: Mapping[str, Any] | None = None
    message: str | None = None
    remember: bool = False
    remembered: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class OwnTurn:
    """A turn that the agent has started by itself; ``content`` says in words why."""

    content: str


class Agent(Protocol):
    """A started agent. One task uses it; `interrupt` and `answer` may be called while that task is in `run`.

    Every method but `run` and `watch` ends by itself within seconds. All raise `AgentFailed` once the agent is gone, or
    `AgentUnavailable` where it never came up.
    """

    def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        """Do one turn (or follow the `OwnTurn` that `watch` told of): its events, `Complete` last.

        Each change of the permission mode that the agent is in is an `AgentMode`, also one that was asked for in the
        turn: so it is known whether what follows was done in a mode that is allowed.

        Cancelling it leaves the turn running in the agent: `interrupt` first, or `close`. Raises `InvalidRequest` for
        content that the agent would not bear: then the turn is over, and the agent as it was.
        """

    async def watch(self) -> OwnTurn:
        """Wait, between turns, until the agent starts a turn by itself. May be cancelled, and called again.

        Raises `AgentFailed` when the agent has exited.
        """

    async def claim(self, spec: AgentSpec) -> None:
        """Let an agent that was started ahead become that of ``spec``: same id and folders, its own options and owner.

        Raises `AgentFailed` where it cannot; then it is of no more use.
        """

    async def configure(self, options: AgentOptions) -> None:
        """Go over to another model or permission mode, from the next turn on. Called between turns.

        Also called in a turn, for another permission mode that holds at once: where an `AgentMode` is not allowed.
        """

    async def steer(self, turn: Turn) -> None:
        """Hand a message to the running turn, which takes it up where it can. Called while a task is in `run`.

        Once it is taken up, `run` yields a `Notice` named ``steered`` with a ``detail`` of ``{"turn_id": ...}``: then
        ``turn`` is over, and has no events of its own. Where `Complete` comes without one (or `run` raises), ``turn``
        has to be the next that is `run`, several of them in the order of `steer`: an agent that has the message
        already begins with it, however the turn before has ended, and any other one is sent it.

        Raises `InvalidRequest` for content that the agent would not bear: then nothing was handed over.
        """

    async def interrupt(self) -> None:
        """Ask the running turn to stop. Its `run` then ends with a `Complete` of ``stop_reason`` ``interrupted``."""

    async def answer(self, request_id: str, decision: Decision) -> None: ...

    async def close(self) -> None:
        """Stop the agent and all that it started; bounded, and never raises. May be called at any time, and twice."""


class AgentDriver(Protocol):
    """Starts agents of one kind.

    ``capabilities`` says what its agents can do, of: ``interrupt``, ``steer``, ``permissions``, ``resume``, ``claim``,
    ``set_model``, ``set_permission_mode``. What is not among them is never called. ``needs_credentials`` is True where
    its agents ask the model API; a driver without it is taken to need none.
    """

    name: str
    capabilities: frozenset[str]
    needs_credentials: bool = False

    def fixed(self, options: AgentOptions) -> AgentOptions:
        """``options`` with only what cannot be changed once an agent is started; all else at its default.

        An agent started for ``fixed(options)`` can be claimed for ``options``.
        """

    async def open(self) -> None:
        """Called once before the first session, by the task that will call `close`.

        Reaps what an earlier server process left behind.
        """

    async def check(self) -> None:
        """Raises `AgentUnavailable` (its ``code`` says why) where an agent could not be started now."""

    async def start(self, spec: AgentSpec) -> Agent:
        """Start an agent, or bring the one named ``spec.agent_id`` back with its whole context.

        Bounded. Raises `AgentUnavailable`. A cancelled start leaves nothing behind.
        """

    async def close(self) -> None:
        """Called once at the end; stops the agents that are left."""


def needs_credentials(driver: AgentDriver) -> bool:
    """Tell whether agents of ``driver`` need credentials for the model API."""
    return bool(getattr(driver, "needs_credentials", False))


def require(driver: AgentDriver, capability: str) -> None:
    """Raises `Conflict` (``not_supported``) where agents of ``driver`` lack ``capability``."""
    if capability not in driver.capabilities:
        raise Conflict(f"agents of the driver {driver.name} cannot do this: {capability}", code="not_supported")
