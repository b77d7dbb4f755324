"""The interfaces of an agent, and of the driver that starts it, as the engine uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from portico.core.errors import Conflict
from portico.core.events import AgentEvent, Aside, Content
from portico.core.git_folders import GitFolder

Suggestion = Mapping[str, Any]
"""A permission for the future, in one of the forms of `portico.core.suggestions`."""

AGENT_MEMBERS = ("description", "prompt", "tools", "disallowed_tools", "model", "max_turns")
"""The members of a subagent in `AgentOptions`; only the first two are always there."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The options of an agent that a client may choose. None and empty mean the driver's own default.

    ``permission_rules`` are the suggestions (rules and folders) that answers have remembered, each with an ``id``. They
    apply beside ``allowed_tools`` and ``disallowed_tools``. Only agents with the capability ``permission_rules`` get
    any.

    ``output_schema`` is a JSON Schema (draft 7) of an object, which the agent returns at the end of each turn.
    ``add_dirs`` are folders beside the working directory. ``agents`` are subagents by name, see `AGENT_MEMBERS`.
    ``git_dirs``, which no client chooses, are the git folders that these folders had outside of themselves when the
    session was made.
    """

    model: str | None = None
    permission_mode: str = "default"
    system_prompt: str | None = None
    append_system_prompt: str | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    mcp_servers: Mapping[str, Any] = field(default_factory=dict)
    max_turns: int | None = None
    setting_sources: tuple[str, ...] = ()
    permission_rules: tuple[Suggestion, ...] = ()
    output_schema: Mapping[str, Any] | None = None
    effort: str | None = None
    fallback_model: str | None = None
    add_dirs: tuple[str, ...] = ()
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    git_dirs: tuple[str, ...] = ()

    def with_changes(self, **changes: Any) -> AgentOptions:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """Everything that a driver needs to start an agent, or to bring one back.

    ``agent_id`` is a UUID and stays the same over the life of a session. ``folder`` is the agent's own (HOME, settings,
    temporary files) and is kept just as long; ``cwd`` is its working directory. No two live agents ever share an
    ``agent_id``. ``owner`` is the principal who owns the session, None for an agent that was started ahead and not
    claimed yet. ``git_folders`` are those of worktrees and submodules among ``cwd`` and the added folders that the
    agent may use.
    """

    agent_id: str
    folder: Path
    cwd: Path
    options: AgentOptions
    owner: str | None = None
    git_folders: tuple[GitFolder, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One query: ``turn_id`` is the client's name for it, ``content`` its text or content blocks.

    With ``commands``, the agent may take the text as a command (``/compact``) or expand file names (``@file``);
    otherwise it is plain text. ``output_schema`` replaces that of the agent's options in this turn; the engine gives it
    to the driver as an option.
    """

    turn_id: str
    content: Content
    commands: bool = False
    output_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a permission request.

    For a request of the kind ``question``, ``updated_input`` is the request's input with ``answers``: a text for each
    question that was answered, where several choices are joined by ", ". For a ``plan``, ``permission_mode`` is the
    mode to carry it out in, None for the one that the request names. For an ``elicitation``, ``content`` are the data.

    ``remember`` also allows, from now on, everything that the request suggests, or the whole tool if it suggests
    nothing; a caller may give the ids of some suggestions instead, which no driver sees. ``remembered`` lists those
    suggestions that the agent must remember, and no others. A driver that ignores ``remembered`` remembers too little,
    but never anything that is not allowed.
    """

    behavior: Literal["allow", "deny"]
    updated_input: Mapping[str, Any] | None = None
    message: str | None = None
    remember: bool | tuple[str, ...] = False
    remembered: tuple[Suggestion, ...] = ()
    answers: Mapping[str, str | Sequence[str]] | None = None
    content: Mapping[str, Any] | None = None
    permission_mode: str | None = None


@dataclass(frozen=True, slots=True)
class OwnTurn:
    """A turn that the agent has started by itself; ``content`` says in words why."""

    content: str


class Agent(Protocol):
    """A started agent. One task uses it; `interrupt` and `answer` may be called while that task is in `run`.

    It may also have ``guards``, a list of paths: files that are out of its reach only until somebody replaces them.
    Before the next turn the engine then starts it anew.

    Every method except `run` and `watch` ends by itself within seconds. All methods raise `AgentFailed` once the agent
    has exited, or `AgentUnavailable` if it never came up.
    """

    def run(self, turn: Turn | OwnTurn) -> AsyncIterator[AgentEvent]:
        """Run one turn (or follow the `OwnTurn` that `watch` returned), and yield its events, `Complete` last.

        Yield an `AgentMode` at each change of the agent's permission mode, even if the change was requested in the
        turn. So the session knows whether the agent did what follows in an allowed mode. Yield an `AgentModel` when the
        model that answers is known, or is another one than before.

        If the call is cancelled, the turn keeps running in the agent: `interrupt` first, or `close`. Raises
        `InvalidRequest` for content that would break the agent: then the turn is over, and the agent is unchanged.
        """

    async def watch(self) -> OwnTurn | Aside:
        """Wait, between turns, until the agent starts a turn by itself, or has an event that belongs to no turn.

        The call may be cancelled, and repeated. It returns each of these events once; those that come in a turn, `run`
        yields.

        Raises `AgentFailed` when the agent has exited.
        """

    async def claim(self, spec: AgentSpec) -> None:
        """Turn an agent that was started ahead into that of ``spec``: same id and folders, new options and owner.

        Raises `AgentFailed` if that fails; then the agent is unusable.
        """

    async def configure(self, options: AgentOptions) -> None:
        """Change model, effort, permission mode or permission rules, from the next turn on. Called between turns.

        It is also called in a turn, after an `AgentMode` that is not allowed: then the new mode applies at once.
        """

    async def steer(self, turn: Turn) -> None:
        """Hand a message to the running turn, which takes it up if it can. Called while a task is in `run`.

        Once the agent has taken it up, `run` yields a `Notice` named ``steered`` with a ``detail`` of ``{"turn_id":
        ...}``: then ``turn`` is over, and has no events of its own. If `Complete` comes without that notice (or `run`
        raises), ``turn`` must be the next turn to `run`; several such turns run in the order of `steer`. An agent that
        already has the message begins with it, however the previous turn ended; any other agent is sent the message.

        Raises `InvalidRequest` for content that would break the agent: then nothing was handed over.
        """

    async def interrupt(self) -> None:
        """Ask the running turn to stop. Its `run` then ends with a `Complete` of ``stop_reason`` ``interrupted``."""

    async def answer(self, request_id: str, decision: Decision) -> None: ...

    async def close(self) -> None:
        """Stop the agent and everything that it started, in bounded time. May be called at any time, even twice.

        It never raises.
        """


class AgentDriver(Protocol):
    """A driver, which starts agents of one kind.

    ``capabilities`` lists the abilities of its agents, out of: ``interrupt``, ``steer``, ``permissions``, ``resume``,
    ``claim``, ``set_model``, ``set_permission_mode``, ``permission_rules``, ``documents`` (blocks in a turn's content),
    ``late_answers`` (see `AgentAbilities.part`), the options ``output_schema``, ``effort``, ``fallback_model``,
    ``add_dirs``, ``agents``, and those of `portico.core.abilities`. The engine never uses an ability that is not
    listed.
    ``needs_credentials`` is True if its agents call the model API; if a driver lacks it, it counts as False.
    """

    name: str
    capabilities: frozenset[str]
    needs_credentials: bool = False

    def fixed(self, options: AgentOptions) -> AgentOptions:
        """Return ``options`` reduced to those that cannot change once an agent has started; the others at defaults.

        An agent started for ``fixed(options)`` can be claimed for ``options``. A session whose next turn needs other
        fixed options (an ``output_schema`` of its own) gets a new agent for it.
        """

    async def open(self) -> None:
        """Remove what an earlier server process left behind.

        Called once before the first session, by the task that will call `close`.
        """

    async def check(self) -> None:
        """Raise `AgentUnavailable` (its ``code`` says why) if an agent could not be started now."""

    async def start(self, spec: AgentSpec) -> Agent:
        """Start an agent, or bring the one named ``spec.agent_id`` back with its whole context, in bounded time.

        Raises `AgentUnavailable`. A cancelled start leaves nothing behind.
        """

    async def close(self) -> None:
        """Stop the agents that are still there. Called once at the end."""


def needs_credentials(driver: AgentDriver) -> bool:
    """Tell whether agents of ``driver`` need credentials for the model API."""
    return bool(getattr(driver, "needs_credentials", False))


def require(driver: AgentDriver, capability: str) -> None:
    """Raise `Conflict` (``not_supported``) if agents of ``driver`` lack ``capability``."""
    if capability not in driver.capabilities:
        raise Conflict(f"agents of the driver {driver.name} cannot do this: {capability}", code="not_supported")
