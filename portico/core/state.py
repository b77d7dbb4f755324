"""The state of a session, the wishes that it has to carry out, and the table of steps that follow from both.

Everything that decides the next step of a session is in this file: a flag elsewhere may never do so. Two tables say it
all. `TRANSITIONS` checks each change of the visible state. `TABLE` gives the next step between two turns: any task may
add a wish, the session's own task asks for the next step, carries it out, and clears the wishes that it has fulfilled.
The order of the rows is the order of importance: the first row whose condition is true wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Literal


class State(StrEnum):
    STARTING = "starting"  # a turn waits for its agent
    IDLE = "idle"
    RUNNING = "running"
    WAITING = "waiting"  # a turn waits for permission to use a tool
    HIBERNATED = "hibernated"  # open, without a process
    DORMANT = "dormant"  # history only; the next query opens it again
    CLOSED = "closed"
    FAILED = "failed"  # after a bug of ours; the history stays readable


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
"""The states that may follow each state. None follows ``closed``."""

OPEN = frozenset({State.STARTING, State.IDLE, State.RUNNING, State.WAITING, State.HIBERNATED})
"""The states that count against ``max_sessions``."""

UNDER_WAY = frozenset({State.STARTING, State.RUNNING, State.WAITING})
"""The states of a session that has a turn to run."""


def follow(before: State, after: State) -> State:
    """Check one transition. Raises RuntimeError if it is not in the table, which is a bug of the calling code."""
    if after not in TRANSITIONS[before]:
        raise RuntimeError(f"a session cannot go from {before} to {after}")
    return after


@dataclass(slots=True)
class Wishes:
    """Requests to a session, and things that happened to it, that the session has not handled yet.

    Any task may set one. Only the session's own task handles them, and clears them with `fulfil`.
    """

    mode_untold: bool = False  # the settings forced another permission mode than the one in the history
    claim: bool = False  # the agent was started ahead, and the session has not claimed it yet
    agent_exit: str | None = None  # the agent exited between two turns; says in words how
    own_turn: str | None = None  # the agent has begun a turn by itself; says in words why
    alarm: bool = False  # a schedule is due
    call: bool = False  # a call waits for an agent, or for the end of a turn
    aside: bool = False  # the agent has an event that belongs to no turn
    close: bool = False
    retired: bool = False  # the session is dormant; the engine makes a new one for the next query
    stop: bool = False  # the server stops: no queued turn may begin
    give_up_process: bool = False  # somebody waits for this session's process
    idle: bool = False  # nobody has used the session for the longest time that it may be idle

    # The next turn reads these; no step follows from them.
    interrupt: str | None = None  # the turn of this id must stop as soon as it begins
    mode_asked: bool = False  # somebody has set the permission mode since the last turn began
    model_asked: bool = False  # the same for the model
    rules_kept: bool = False  # an answer has changed the rules since the last turn began
    agent_lost: bool = False  # the last agent exited, so the next turn reports that it has a new one

    def interrupts(self, turn_id: str) -> bool:
        """Tell whether the turn must stop as soon as it begins."""
        return self.close or self.stop or self.interrupt == turn_id

    def options_asked(self) -> bool:
        """Tell whether somebody has set an option of the agent since the last call."""
        asked = self.mode_asked or self.model_asked or self.rules_kept
        self.mode_asked = self.model_asked = self.rules_kept = False
        return asked

    def fulfil(self, step: Step) -> None:
        """Clear the wishes that ``step``, which is done, has fulfilled."""
        for wish in FULFILS.get(step, ()):
            setattr(self, wish, None if wish in ("agent_exit", "own_turn") else False)


Wish = Literal[
    "mode_untold",
    "claim",
    "agent_exit",
    "own_turn",
    "aside",
    "alarm",
    "call",
    "close",
    "retired",
    "stop",
    "give_up_process",
    "idle",
]
"""A field of `Wishes` that may cause a step."""


class Step(Enum):
    """The next thing that the task of a session does."""

    TELL_MODE = auto()  # record that the settings have changed the permission mode
    CLAIM = auto()  # claim the agent that was started ahead
    NOTE_EXIT = auto()  # stop the rest of an agent that exited, and record that it exited
    NOTE_ASIDE = auto()  # record an event that belongs to no turn
    FOLLOW = auto()  # follow the turn that the agent has begun by itself
    CLOSE = auto()  # stop the agent, refuse the queued turns, write ``closed``
    RING = auto()  # put the turns of schedules into the queue
    CALL = auto()  # start an agent if there is none, and pass the calls that wait on to it
    REFUSE = auto()  # refuse the queued turns, because the server stops
    BEGIN = auto()  # run the first queued turn
    SETTLE = auto()  # write ``idle``: the next turn was withdrawn
    HIBERNATE = auto()  # give the process back, and write ``hibernated``
    RETIRE = auto()  # give the process back, and write ``dormant``
    REST = auto()  # wait for a wish
    LEAVE = auto()  # end the task


@dataclass(frozen=True, slots=True)
class Row:
    """A step and its condition: the session has the wish, is in one of ``states`` and, if ``waiting``, has a queue."""

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
    Row(Step.NOTE_ASIDE, "aside"),
    Row(Step.NOTE_EXIT, "agent_exit"),
    Row(Step.FOLLOW, "own_turn"),  # also when closing: the turn has begun, so it needs an end
    Row(Step.CLOSE, "close"),
    Row(Step.LEAVE, "retired"),
    Row(Step.REFUSE, "stop", waiting=True),
    Row(Step.RING, "alarm"),
    Row(Step.CALL, "call"),
    Row(Step.BEGIN, waiting=True),
    Row(Step.SETTLE, states=UNDER_WAY),
    Row(Step.HIBERNATE, "give_up_process", states=frozenset({State.IDLE})),
    Row(Step.RETIRE, "idle"),
    Row(Step.REST),
)
"""The first row whose condition is true gives the next step."""

FULFILS: Mapping[Step, Sequence[Wish]] = {
    Step.TELL_MODE: ("mode_untold",),
    Step.CLAIM: ("claim",),
    Step.NOTE_EXIT: ("agent_exit",),
    Step.NOTE_ASIDE: ("aside",),
    Step.FOLLOW: ("own_turn", "give_up_process", "idle"),
    Step.RING: ("alarm",),
    Step.CALL: ("call",),
    Step.BEGIN: ("give_up_process", "idle"),
    Step.HIBERNATE: ("give_up_process",),
    Step.RETIRE: ("idle",),
}
"""The wishes that each finished step clears. ``close``, ``retired`` and ``stop`` are never cleared."""


def next_step(state: State, wishes: Wishes, queue: Sized, table: Sequence[Row] = TABLE) -> Step:
    """Return the next step of a session between two turns; ``queue`` holds the turns that wait."""
    return next(row.step for row in table if row.holds(state, wishes, queue))
