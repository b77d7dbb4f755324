"""The table of a session's steps, over all states, wishes and queues that there may be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import pytest

from portico.core import state as table_of_steps
from portico.core.state import FULFILS, TABLE, TRANSITIONS, UNDER_WAY, Row, State, Step, Wish, Wishes, next_step

WISHES: Sequence[Wish] = get_args(Wish)
OVER = {State.CLOSED, State.FAILED}
LONGEST = 20
"""More steps than a session can need before it rests, or its task ends."""

AFTER: Mapping[Step, State] = {
    Step.SETTLE: State.IDLE,
    Step.HIBERNATE: State.HIBERNATED,
    Step.RETIRE: State.DORMANT,
    Step.CLOSE: State.CLOSED,
}
"""The state that a step writes; a turn apart, which has several."""


@dataclass
class Course:
    """A session from some moment on until it rests or leaves, if nobody asks for anything more."""

    state: State
    wishes: Wishes
    queue: list[str]
    steps: list[Step]
    begun: list[str]
    refused: list[str]
    faults: list[str]

    def go(self, table: Sequence[Row]) -> None:
        """Do what the table says, and note each step that can't be done where it is said."""
        for _ in range(LONGEST):
            step = next_step(self.state, self.wishes, self.queue, table)
            self.steps.append(step)
            if step in (Step.REST, Step.LEAVE):
                return
            self._do(step)
            self.wishes.fulfil(step)
        self.faults.append("it never comes to rest")

    def _do(self, step: Step) -> None:
        if step in (Step.BEGIN, Step.FOLLOW):
            if step is Step.BEGIN and not self.queue:
                self.faults.append("a turn begins, and none waits")
                return
            if step is Step.BEGIN:
                self.begun.append(self.queue.pop(0))
            if step is Step.FOLLOW and self.wishes.own_turn is None:
                self.faults.append("an own turn is followed, and there is none")
            self._write(State.STARTING)
            self._write(State.RUNNING)
            if not self.queue or self.wishes.close:
                self._write(State.IDLE)
        if step in (Step.CLOSE, Step.REFUSE):
            self.refused += self.queue
            self.queue.clear()
        if step is Step.RETIRE:
            self.wishes.retired = True
        if step in AFTER:
            self._write(AFTER[step])

    def _write(self, state: State) -> None:
        if state is not self.state and state not in TRANSITIONS[self.state]:
            self.faults.append(f"{self.state} can't become {state}")
        self.state = state


def wishes(names: Sequence[Wish]) -> Wishes:
    given: dict[str, Any] = {name: "why" if name in ("agent_exit", "own_turn") else True for name in names}
    return Wishes(**given)


def situations() -> Iterator[tuple[State, tuple[Wish, ...], list[str]]]:
    """All that there may be. Nothing waits where the task was about to end: such a session lets nobody in."""
    for count in range(len(WISHES) + 1):
        for names in itertools.combinations(WISHES, count):
            for state in State:
                yield state, names, []
                if state not in OVER and "retired" not in names:
                    yield state, names, ["one", "two"]


def faults(table: Sequence[Row]) -> Iterator[str]:
    """Say in words what is wrong with the table, and in which situation."""
    for state, names, queue in situations():
        course = Course(state, wishes(names), list(queue), [], [], [], [])
        try:
            course.go(table)
        except StopIteration:
            course.faults.append("no row holds")
        for fault in (*course.faults, *wrong(course, state, set(names), queue)):
            yield f"{state}, {', '.join(names) or 'no wish'}, {len(queue)} waiting: {fault}"


def wrong(course: Course, state: State, names: set[Wish], queue: list[str]) -> Iterator[str]:
    steps = course.steps
    once = [step for step in steps if step is not Step.BEGIN]
    if len(once) != len(set(once)):
        yield "a step is done twice"
    if state is State.CLOSED:
        if steps != [Step.LEAVE]:
            yield "a closed session does something"
        return
    if "mode_untold" in names and steps[0] is not Step.TELL_MODE:
        yield "the history is wrong about the permission mode while something else is written"
    if "claim" in names and Step.CLAIM not in steps[:2]:
        yield "an agent that is nobody's is used"
    if state is State.FAILED:
        if "close" in names and course.state is not State.CLOSED:
            yield "a failed session can't be closed"
        if "close" not in names and course.state is not State.FAILED:
            yield "a failed session is closed, and nobody asked for that"
        if not set(steps) <= {Step.TELL_MODE, Step.CLAIM, Step.CLOSE, Step.LEAVE}:
            yield "a failed session goes on"
        return
    if (Step.TELL_MODE in steps) != ("mode_untold" in names) or (Step.CLAIM in steps) != ("claim" in names):
        yield "a new session is not told of, or claimed, as it should be"
    if "close" in names:
        if course.state is not State.CLOSED or steps[-2:] != [Step.CLOSE, Step.LEAVE]:
            yield "closing does not end it"
        if set(steps) & {Step.BEGIN, Step.RETIRE, Step.HIBERNATE, Step.SETTLE}:
            yield "it goes on while it is closing"
    elif Step.CLOSE in steps:
        yield "it is closed, and nobody asked for that"
    if "stop" in names and Step.BEGIN in steps:
        yield "a turn begins although the server stops"
    if course.begun + course.refused != queue:
        yield "a turn that waits neither runs nor is refused, or not in its order"
    if course.refused and not names & {"close", "stop"}:
        yield "a turn is refused for no reason"
    for wish, step in (("agent_exit", Step.NOTE_EXIT), ("aside", Step.NOTE_ASIDE), ("own_turn", Step.FOLLOW)):
        if (wish in names) != (step in steps):
            yield f"{wish} is lost, or invented"
    if (Step.RING in steps) != ("alarm" in names and not names & {"close", "retired"}):
        yield "an alarm is lost, or invented"
    if {Step.RING, Step.REFUSE} <= set(steps) and steps.index(Step.REFUSE) > steps.index(Step.RING):
        yield "an alarm delays what is refused"
    if {Step.RING, Step.CALL} <= set(steps) and steps.index(Step.RING) > steps.index(Step.CALL):
        yield "a call delays what is due"
    if (Step.CALL in steps) != ("call" in names and not names & {"close", "retired"}):
        yield "a call is lost, or invented"
    if Step.CALL in steps and Step.BEGIN in steps and steps.index(Step.CALL) > steps.index(Step.BEGIN):
        yield "a call that must be alone waits for turns that came after it"
    settled = [Step.TELL_MODE, Step.CLAIM, Step.NOTE_ASIDE, Step.NOTE_EXIT, Step.FOLLOW]
    if [step for step in steps if step in settled] != steps[: len(set(steps) & set(settled))]:
        yield "something is done before it is written what has happened"
    if {"agent_exit", "own_turn"} <= names and steps.index(Step.NOTE_EXIT) > steps.index(Step.FOLLOW):
        yield "an agent that has exited is followed"
    if {"aside", "agent_exit"} <= names and steps.index(Step.NOTE_ASIDE) > steps.index(Step.NOTE_EXIT):
        yield "an agent that has exited still says something"
    turns = bool(course.begun) or "own_turn" in names
    resting = not names & {"close", "retired"} and not turns
    if (Step.RETIRE in steps) != (resting and "idle" in names):
        yield "it is retired at the wrong time, or not at the right one"
    if (Step.HIBERNATE in steps) != (resting and "give_up_process" in names and state in (State.IDLE, *UNDER_WAY)):
        yield "it gives its process up at the wrong time, or not at the right one"
    if (steps[-1] is Step.LEAVE) != bool(names & {"close", "retired"} or (resting and "idle" in names)):
        yield "its task ends too early, or not at all"
    if steps[-1] is Step.REST and course.state in UNDER_WAY:
        yield "it rests in the state of a session that works"
    if turns and "close" not in names and (course.wishes.idle or course.wishes.give_up_process):
        yield "a wish from before a turn outlives it"
    if (Step.RETIRE in steps and course.wishes.idle) or (Step.HIBERNATE in steps and course.wishes.give_up_process):
        yield "a wish that is fulfilled stays"


def test_no_session_does_what_it_must_not() -> None:
    assert list(itertools.islice(faults(TABLE), 5)) == []


INDEPENDENT = {(Step.LEAVE, Step.REFUSE), (Step.REFUSE, Step.CALL), (Step.SETTLE, Step.HIBERNATE)}
"""Neighbours whose order is the same to everybody: nothing waits in a session that is retired; one is idle or has a
turn to do; the turns that are refused are nothing to a call."""


def broken_tables() -> Iterator[tuple[str, Sequence[Row]]]:
    """Each row left out, behind the next one, and without each of its conditions."""
    for place, row in enumerate(TABLE):
        name = f"{place}-{row.step.name}"
        others: list[tuple[str, list[Row]]] = [("left-out", [])]
        if row.wish is not None:
            others.append(("without-wish", [replace(row, wish=None)]))
        if row.states != frozenset(State):
            others.append(("in-any-state", [replace(row, states=frozenset(State))]))
        if row.waiting:
            others.append(("without-turns", [replace(row, waiting=False)]))
        for what, instead in others:
            yield f"{name}-{what}", [*TABLE[:place], *instead, *TABLE[place + 1 :]]
        if place + 1 < len(TABLE) and (row.step, TABLE[place + 1].step) not in INDEPENDENT:
            yield f"{name}-too-late", [*TABLE[:place], TABLE[place + 1], row, *TABLE[place + 2 :]]


@pytest.mark.parametrize("table", [pytest.param(table, id=name) for name, table in broken_tables()])
def test_a_row_that_is_broken_is_noticed(table: Sequence[Row]) -> None:
    assert next(faults(table), None) is not None


@pytest.mark.parametrize(("step", "wish"), [(step, wish) for step, wishes in FULFILS.items() for wish in wishes])
def test_a_wish_that_is_not_taken_back_is_noticed(step: Step, wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(each for each in FULFILS[step] if each != wish)
    monkeypatch.setattr(table_of_steps, "FULFILS", {**FULFILS, step: kept})
    assert next(faults(TABLE), None) is not None


def test_what_the_next_turn_heeds_changes_no_step() -> None:
    heeded = {field.name for field in fields(Wishes)} - set(WISHES)
    assert heeded == {"interrupt", "mode_asked", "model_asked", "rules_kept", "agent_lost"}
    for state, names, queue in situations():
        more = replace(wishes(names), interrupt="one", mode_asked=True, model_asked=True, agent_lost=True)
        assert next_step(state, more, queue) is next_step(state, wishes(names), queue)


def test_asking_for_the_next_step_changes_nothing() -> None:
    for state, names, queue in situations():
        asked, before = wishes(names), list(queue)
        assert next_step(state, asked, queue) is next_step(state, asked, queue)
        assert (asked, queue) == (wishes(names), before)


@pytest.mark.parametrize(("name", "all_turns"), [(None, False), ("close", True), ("stop", True), ("idle", False)])
def test_a_turn_is_interrupted_before_it_begins_by_its_id_or_as_all_ends(name: Wish | None, all_turns: bool) -> None:
    asked = wishes([name] if name else [])
    assert asked.interrupts("one") is all_turns
    asked.interrupt = "two"
    assert asked.interrupts("one") is all_turns
    assert asked.interrupts("two")
