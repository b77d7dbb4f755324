"""The state of a session, what is wished of it, and the table of what follows from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Literal


class State(StrEnum):
    STARTING = "starting"  # a turn waits for its agent
    IDLE = "idle"
    RUNNING = "running"
    WAITING = "waiting"  # a turn waits for leave to use a tool
    HIBERNATED = "hibernated"  # open, without a process
    DORMANT = "dormant"  # history only; the next query opens it again
    CLOSED = "closed"
    FAILED = "failed"  # a fault of ours; the history stays readable


_END = {State.CLOSED, State.FAILED}

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.IDLE: frozenset({State.STARTING, State.RUNNING, State.HIBERNATED, State.DORMANT, *_END}),
    State.STARTING: frozenset({State.RUNNING, State.IDLE, *_END}),
    State.RUNNING: frozenset({State.WAITING, State.STARTING, State.IDLE, *_END}),
    State.WAITING: frozenset({State.RUNNING, State.STARTING, State.IDLE, *_END}),
    State.HIBERNATED: frozenset({State.STARTING, State.IDLE, State.DORMANT, *_END}),
    State.DORMANT: frozenset({State.STARTING, State.IDLE, *_END}),
    State.CLOSED: frozenset(),
    State.FAILED: frozenset({State.CLOSED}),
}
"""From each state, the states that may follow. Nothing follows ``closed``."""

OPEN = frozenset({State.STARTING, State.IDLE, State.RUNNING, State.WAITING, State.HIBERNATED})
"""The states that count against ``max_sessions``."""

UNDER_WAY = frozenset({State.STARTING, State.RUNNING, State.WAITING})
"""The states of a session that has a turn to do."""


def follow(before: State, after: State) -> State:
    """Check one step. Raises RuntimeError for one that the table does not have: a fault of the caller's code."""
    if after not in TRANSITIONS[before]:
        raise RuntimeError(f"a session cannot go from {before} to {after}")
    return after


@dataclass(slots=True)
class Wishes:
    """All that was asked of a session, or has happened to it, and is not carried out yet.

    Anybody may set one. Only the session's own task carries them out, and takes them back with `fulfil`.
    """

    mode_untold: bool = False  # the settings allow another permission mode than the history tells of
    claim: bool = False  # the agent was started ahead, and is not this session's own yet
    agent_exit: str | None = None  # the agent exited between two turns; in words, how
    own_turn: str | None = None  # the agent has begun a turn by itself; in words, why
    close: bool = False
    retired: bool = False  # the session is dormant; the engine makes a new one for the next query
    stop: bool = False  # the server stops: no turn that waits may begin
    give_up_process: bool = False  # somebody waits for the process of this session
    idle: bool = False  # nobody has used the session for as long as it may live without

    # The next turn heeds these; no step follows from them.
    interrupt: str | None = None  # the turn of this id must stop as soon as it begins
    mode_asked: bool = False  # somebody has set the permission mode since the last turn began
    agent_lost: bool = False  # the last agent exited, so the next turn tells that there is another one

    def interrupts(self, turn_id: str) -> bool:
        """Tell whether the turn must stop as soon as it begins."""
        return self.close or self.stop or self.interrupt == turn_id

    def fulfil(self, step: Step) -> None:
        """Take back the wishes that ``step``, which is done, has fulfilled."""
        for wish in FULFILS.get(step, ()):
            setattr(self, wish, None if wish in ("agent_exit", "own_turn") else False)


Wish = Literal["mode_untold", "claim", "agent_exit", "own_turn", "close", "retired", "stop", "give_up_process", "idle"]
"""A field of `Wishes` from which a step may follow."""


class Step(Enum):
    """The next thing that the task of a session does."""

    TELL_MODE = auto()  # write that the settings have changed the permission mode
    CLAIM = auto()  # make the agent that was started ahead the session's own
    NOTE_EXIT = auto()  # stop what is left of an agent that exited, and write that it did
    FOLLOW = auto()  # follow the turn that the agent has begun by itself
    CLOSE = auto()  # stop the agent, refuse the turns that wait, write ``closed``
    REFUSE = auto()  # refuse the turns that wait, because the server stops
    BEGIN = auto()  # do the first of the turns that wait
    SETTLE = auto()  # write ``idle``: the turn that was to come next was withdrawn
    HIBERNATE = auto()  # give the process back, and write ``hibernated``
    RETIRE = auto()  # give the process back, and write ``dormant``
    REST = auto()  # wait for a wish
    LEAVE = auto()  # end the task


@dataclass(frozen=True, slots=True)
class Row:
    """``step`` comes next where the session has the wish, is in one of ``states``, and (``waiting``) turns wait."""

    step: Step
    wish: Wish | None = None
    states: frozenset[State] = frozenset(State)
    waiting: bool = False

    def holds(self, state: State, wishes: Wishes, queue: Sized) -> bool:
        return (
            state in self.states
            and (self.wish is None or getattr(wishes, self.wish) not in (None, False))
            and (not self.waiting or len(queue) > 0)
        )


TABLE: Sequence[Row] = (
    Row(Step.LEAVE, states=frozenset({State.CLOSED})),
    Row(Step.TELL_MODE, "mode_untold"),
    Row(Step.CLAIM, "claim"),
    Row(Step.CLOSE, "close", states=frozenset({State.FAILED})),
    Row(Step.LEAVE, states=frozenset({State.FAILED})),
    Row(Step.NOTE_EXIT, "agent_exit"),
    Row(Step.FOLLOW, "own_turn"),  # also when closing: it has begun, so it needs an end
    Row(Step.CLOSE, "close"),
    Row(Step.LEAVE, "retired"),
    Row(Step.REFUSE, "stop", waiting=True),
    Row(Step.BEGIN, waiting=True),
    Row(Step.SETTLE, states=UNDER_WAY),
    Row(Step.HIBERNATE, "give_up_process", states=frozenset({State.IDLE})),
    Row(Step.RETIRE, "idle"),
    Row(Step.REST),
)
"""The first row that holds says what comes next."""

FULFILS: Mapping[Step, Sequence[Wish]] = {
    Step.TELL_MODE: ("mode_untold",),
    Step.CLAIM: ("claim",),
    Step.NOTE_EXIT: ("agent_exit",),
    Step.FOLLOW: ("own_turn", "give_up_process", "idle"),
    Step.BEGIN: ("give_up_process", "idle"),
    Step.HIBERNATE: ("give_up_process",),
    Step.RETIRE: ("idle",),
}
"""The wishes that are gone once a step is done. ``close``, ``retired`` and ``stop`` stay for good."""


def next_step(state: State, wishes: Wishes, queue: Sized, table: Sequence[Row] = TABLE) -> Step:
    """Say what a session does next between two turns; ``queue`` holds the turns that wait."""
    return next(row.step for row in table if row.holds(state, wishes, queue))
