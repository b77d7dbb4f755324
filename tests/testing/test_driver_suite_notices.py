"""Drivers that break a rule each: the suite notices every one of them, and by the tests that state the rule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, cast

import anyio
import anyio.lowlevel
import pytest

from portico.core.abilities import ContextUse, LateAnswer
from portico.core.agent import AgentDriver, AgentOptions, AgentSpec, Decision, OwnTurn, Turn
from portico.core.errors import AgentFailed, AgentUnavailable, InvalidRequest
from portico.core.events import AgentEvent, Aside, Complete, Content, PermissionRequest, Question, ToolResult, unused
from portico.core.task_event import Task
from portico.core.usage import TOKENS, ModelUsage
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.echo.echo_agent import EchoAgent
from portico.testing.driver import DriverConformance
from tests.testing.test_driver_suite import EchoConformance

pytestmark = pytest.mark.anyio

Said = AsyncIterator[AgentEvent]

RULES = sorted(name for name in dir(DriverConformance) if name.startswith("test_"))


BEHIND = "a task in the background"


class Good(EchoAgent):
    """Breaks nothing. `driver` knows of it as long as it lives; `turns` counts."""

    driver: GoodDriver

    def __init__(self, spec: AgentSpec) -> None:
        super().__init__(spec)
        self.turns = 0
        self.stopped: anyio.Event | None = None

    async def run(self, turn: Turn | OwnTurn) -> Said:
        self.turns += 1
        if turn.content == BEHIND:
            self.stopped = anyio.Event()
            yield Task(type="task", task_id="t", state="started", kind="shell", description=BEHIND)
        async for event in super().run(turn):
            yield event

    async def watch(self) -> OwnTurn | Aside:
        if self.stopped is None:
            return await super().watch()
        await self.stopped.wait()
        self.stopped = None
        return Task(type="task", task_id="t", state="ended", kind="shell", description=BEHIND, outcome="stopped")

    async def stop_task(self, task_id: str) -> None:
        if task_id == "t" and self.stopped is not None:
            self.stopped.set()

    async def context(self) -> ContextUse:
        return ContextUse(model="echo", tokens=1, max_tokens=2, percent=50.0, compacts_at=None, parts=[])

    async def close(self) -> None:
        self.driver.alive.discard(self._spec.agent_id)
        await super().close()


class GoodDriver(EchoDriver):
    agent: type[Good] = Good
    capabilities = EchoDriver.capabilities | {"context", "fork", "stop_task"}

    def __init__(self) -> None:
        super().__init__()
        self.alive: set[str] = set()

    async def start(self, spec: AgentSpec) -> EchoAgent:
        agent = self.agent(spec)
        agent.driver = self
        self.alive.add(spec.agent_id)
        self._agents.add(agent)
        return agent

    async def fork(self, source: AgentSpec, spec: AgentSpec, turns: Sequence[str] | None, own_turns: int) -> None: ...

    async def close(self) -> None:
        for agent in list(self._agents):
            if agent._spec.agent_id in self.alive:
                await agent.close()


class Suite(EchoConformance):
    permission_rule: ClassVar = {"behavior": "allow", "rule": "Echo"}

    def __init__(self, variant: type[Good] | type[GoodDriver], seconds: float) -> None:
        self.turn_seconds = self.soon_seconds = seconds
        self._variant = variant
        self._drivers: list[GoodDriver] = []

    def create(self, folder: Path) -> AgentDriver:
        driver = self._variant() if issubclass(self._variant, GoodDriver) else GoodDriver()
        if issubclass(self._variant, Good):
            driver.agent = self._variant
        self._drivers.append(driver)
        return driver

    def leftovers(self, folder: Path) -> Sequence[object]:
        return [agent_id for driver in self._drivers for agent_id in driver.alive]

    def works_behind(self) -> Content:
        return BEHIND

    def recalls(self, text: str) -> Content | None:
        return "what was it" if self._variant is Forgets else None

    def asks_a_question(self) -> Content | None:
        return "why" if issubclass(self._variant, AnswersLate) else None


# The driver.


class Asking(Good):
    """Asks why, where it is asked so, and goes on with the answer."""

    async def run(self, turn: Turn | OwnTurn) -> Said:
        if turn.content != "why":
            async for event in super().run(turn):
                yield event
            return
        why = Question(question="Why?", options=[], multi_select=False)
        request = PermissionRequest(
            type="permission_request", request_id="r", tool_name="x", input={}, kind="question", questions=[why]
        )
        request["tool_use_id"] = "u"
        yield request
        await anyio.sleep_forever()

    async def part(self) -> Complete:
        await self.close()
        return unused("interrupted")

    async def go_on(self, late: LateAnswer) -> Said:
        yield ToolResult(type="tool_result", tool_use_id="u", content="", is_error=False)
        yield unused("end_turn")


class AnswersLate(GoodDriver):
    """Breaks nothing."""

    agent = Asking
    capabilities = GoodDriver.capabilities | {"late_answers"}


class AskingForNothing(Asking):
    async def go_on(self, late: LateAnswer) -> Said:
        yield unused("end_turn")


class HasNoResultForALateAnswer(AnswersLate):
    agent = AskingForNothing


class AsksInSpiteOfARule(GoodDriver):
    capabilities = GoodDriver.capabilities | {"permission_rules"}


class HasNoName(GoodDriver):
    name = ""


class CanTeleport(GoodDriver):
    capabilities = GoodDriver.capabilities | {"teleport"}


class FixesMoreAndMore(GoodDriver):
    def fixed(self, options: AgentOptions) -> AgentOptions:
        return AgentOptions(allowed_tools=(*options.allowed_tools, "Read"))


class TearsAtItsFork(GoodDriver):
    async def fork(self, source: AgentSpec, spec: AgentSpec, turns: Sequence[str] | None, own_turns: int) -> None:
        raise ValueError("no such turn")


class TellsNonsense(Good):
    async def context(self) -> ContextUse:
        return cast(ContextUse, {"model": "echo"})


class WorksOnWhenStopped(Good):
    async def stop_task(self, task_id: str) -> None: ...


class DeniesThatItWorks(GoodDriver):
    async def check(self) -> None:
        raise AgentUnavailable("not today")


class LeavesWhatWasCancelled(GoodDriver):
    async def start(self, spec: AgentSpec) -> EchoAgent:
        agent = await super().start(spec)
        await anyio.sleep(0.001)
        return agent


class ForgetsItsAgents(GoodDriver):
    async def close(self) -> None:
        pass


# Turns.


class CompletesTwice(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "complete":
                yield event
            yield event


class NumbersItsEvents(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "delta":
                event["seq"] = 1  # type: ignore[typeddict-unknown-key]
            yield event


class TidiesWhiteSpace(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "message":
                event["content"] = [{"type": "text", "text": " ".join(event["content"][0]["text"].split())}]
            yield event


class StreamsForAnotherBlock(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "delta":
                event["index"] = 1
            yield event


class StutteringAgent(Good):
    """The third turn has the answer of the second."""

    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(Turn("second", "second") if turn.content == "third" else turn):
            yield event


class TakesTextOnly(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        if not isinstance(turn.content, str):
            raise InvalidRequest("text, please")
        async for event in super().run(turn):
            yield event


class ReadsNoDocuments(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        if any(block["type"] == "document" for block in turn.content if isinstance(block, dict)):
            raise InvalidRequest("no documents, please")
        async for event in super().run(turn):
            yield event


class KeepsItsOutput(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "complete":
                event.pop("structured_output", None)
            yield event


class SumsUp(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "complete":
                event["usage"] = {"output_tokens": self.turns * event["usage"]["output_tokens"]}
            yield event


class LeavesAModelOut(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "complete":
                model = {**dict.fromkeys(TOKENS, 0), "cost_usd": 0.5, "cost_basis": "reported"}
                event["usage_by_model"] = {"m": cast(ModelUsage, model)}
            yield event


class ChokesOnNonsense(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        if not isinstance(turn.content, str):
            turn.content[0]["text"]
        async for event in super().run(turn):
            yield event


class DiesOfNonsense(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        try:
            async for event in super().run(turn):
                yield event
        except InvalidRequest:
            await self.close()
            raise


class MixesItsAgents(Good):
    running: list[Turn | OwnTurn] = []  # noqa: RUF012 - that is what is wrong with it

    async def run(self, turn: Turn | OwnTurn) -> Said:
        self.running.append(turn)
        try:
            async for event in super().run(turn):
                if event["type"] == "message" and turn is not self.running[-1]:
                    event["content"] = [{"type": "text", "text": self.running[-1].content}]
                yield event
        finally:
            self.running.remove(turn)


# Interrupts.


class IsOfNoUseOnceInterrupted(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "complete" and event["stop_reason"] == "interrupted":
                self._gone.set()
            yield event


class CallsItAnEnd(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "complete" and event["stop_reason"] == "interrupted":
                event["stop_reason"] = "end_turn"
            yield event


class ListensOnceItSpeaks(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        await anyio.sleep(0.001)
        async for event in super().run(turn):
            yield event


class TakesALateInterruptForTheNextTurn(Good):
    busy = late = False

    async def run(self, turn: Turn | OwnTurn) -> Said:
        if self.late:
            self.late = False
            yield Complete(type="complete", stop_reason="interrupted", usage={}, cost_usd=0.0)
            return
        self.busy = True
        async for event in super().run(turn):
            yield event
        self.busy = False

    async def interrupt(self) -> None:
        self.late = not self.busy and not self._gone.is_set()
        await super().interrupt()


# Steering.


class TakesUpInSilence(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] != "notice":
                yield event


class TakesUpAndForgets(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        messages = 0
        async for event in super().run(turn):
            messages += event["type"] == "message"
            if event["type"] != "message" or messages < 2:
                yield event


class SaysItAgain(Good):
    """Say in the next turn everything that a turn has not taken up, also where that is it."""

    async def run(self, turn: Turn | OwnTurn) -> Said:
        left = list(self._steered)
        async for event in super().run(turn):
            self._steered.extend(left)
            left = []
            yield event


class DiesOfSteeringNonsense(Good):
    async def steer(self, turn: Turn) -> None:
        try:
            await super().steer(turn)
        except InvalidRequest:
            await self.close()


# Permissions.


class DoesItFirst(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            if event["type"] == "permission_request":
                yield ToolResult(type="tool_result", tool_use_id="t", content="done", is_error=False)
            yield event


class DeniesAll(Good):
    async def answer(self, request_id: str, decision: Decision) -> None:
        await super().answer(request_id, replace(decision, behavior="deny"))


class AllowsAll(Good):
    async def answer(self, request_id: str, decision: Decision) -> None:
        await super().answer(request_id, replace(decision, behavior="allow"))


class ChangesItsMind(Good):
    async def answer(self, request_id: str, decision: Decision) -> None:
        request = self._request
        if request is not None and request.decision is not None:
            request.decision = None
            request.settled = anyio.Event()
        await super().answer(request_id, decision)


class BurstsAtASecondAnswer(Good):
    async def answer(self, request_id: str, decision: Decision) -> None:
        if self._request is None or self._request.decision is not None:
            raise KeyError(request_id)
        await super().answer(request_id, decision)


class WaitsForAnAnswer(Good):
    async def interrupt(self) -> None:
        self._stop.set()
        if self._gone.is_set():
            await super().interrupt()


# Ends.


class ClosesOnce(Good):
    async def close(self) -> None:
        if self._gone.is_set():
            raise AgentFailed("it is closed already")
        await super().close()


class SaysThatItIsUnavailable(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        if self._gone.is_set():
            raise AgentUnavailable("it is closed")
        async for event in super().run(turn):
            yield event


class HangsInItsLastTurn(Good):
    async def run(self, turn: Turn | OwnTurn) -> Said:
        gone = self._gone.is_set()
        try:
            async for event in super().run(turn):
                yield event
        except AgentFailed:
            if not gone:
                await anyio.sleep_forever()
            raise


class LeavesWhatHadNoTurn(Good):
    async def close(self) -> None:
        alive = set(self.driver.alive)
        await super().close()
        if not self.turns:
            self.driver.alive = alive


class ClosesAtItsLeisure(Good):
    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        await super().close()


class WatchesForEver(Good):
    async def watch(self) -> OwnTurn | Aside:
        if not self._gone.is_set():
            await anyio.sleep_forever()
        return await super().watch()


# Sessions that last.


class Forgets(Good):
    pass


class StartsOnce(GoodDriver):
    """Refuses ids that are taken: by an agent that had a turn, or (`StartsUnusedOnce`) by one that had none."""

    used = True

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Good] = {}

    async def start(self, spec: AgentSpec) -> EchoAgent:
        before = self.before.get(spec.agent_id)
        if before is not None and bool(before.turns) is self.used:
            raise AgentUnavailable("the session exists")
        agent = await super().start(spec)
        assert isinstance(agent, Good)
        self.before[spec.agent_id] = agent
        return agent


class StartsUnusedOnce(StartsOnce):
    used = False


class IsClaimedAsItIs(Good):
    async def claim(self, spec: AgentSpec) -> None:
        pass


class KeepsItsModel(Good):
    async def configure(self, options: AgentOptions) -> None:
        await super().configure(replace(options, model=None))


class ChangesItsModelForOneTurn(Good):
    configured = False

    async def configure(self, options: AgentOptions) -> None:
        self.configured = True
        await super().configure(options)

    async def run(self, turn: Turn | OwnTurn) -> Said:
        async for event in super().run(turn):
            yield event
        if self.configured:
            await self.configure(replace(self._spec.options, model=None))


class KeepsItsMode(Good):
    async def configure(self, options: AgentOptions) -> None:
        await super().configure(replace(options, permission_mode="default"))


CLOSES = {
    "test_a_closed_agent_is_gone",
    "test_a_close_ends_the_running_turn",
    "test_a_cancelled_close_stops_the_agent",
    "test_a_driver_that_closes_stops_its_agents",
}

INTERRUPTS = {
    "test_an_interrupt_ends_the_turn",
    "test_an_interrupt_before_the_first_event_counts",
    "test_a_message_for_an_interrupted_turn_is_the_next",
    "test_who_asks_can_be_interrupted",
}

VARIANTS: dict[type[Good] | type[GoodDriver], set[str]] = {
    Good: set(),
    AnswersLate: set(),
    HasNoResultForALateAnswer: {"test_an_answer_that_comes_late_is_taken_by_the_next_agent"},
    AsksInSpiteOfARule: {"test_a_permission_rule_holds_until_it_is_taken_back"},
    HasNoName: {"test_it_has_a_name"},
    CanTeleport: {"test_its_capabilities_are_known"},
    FixesMoreAndMore: {"test_what_is_fixed_stays_fixed"},
    TearsAtItsFork: {"test_a_fork_works_and_knows_what_the_first_one_did"},
    TellsNonsense: {"test_it_tells_of_itself_in_the_known_shapes"},
    DeniesThatItWorks: {"test_a_driver_that_works_says_so"},
    LeavesWhatWasCancelled: {"test_a_cancelled_start_leaves_nothing"},
    ForgetsItsAgents: {"test_a_driver_that_closes_stops_its_agents"},
    CompletesTwice: {"test_a_turn_ends_in_one_complete"},
    NumbersItsEvents: {"test_events_have_their_shapes"},
    TidiesWhiteSpace: {"test_an_answer_comes_whole"},
    StreamsForAnotherBlock: {"test_an_answer_comes_whole"},
    StutteringAgent: {"test_turns_come_one_after_another"},
    TakesTextOnly: {"test_a_query_may_be_blocks", "test_a_query_may_have_documents"},
    ReadsNoDocuments: {"test_a_query_may_have_documents"},
    KeepsItsOutput: {"test_a_turn_returns_what_fits_the_schema"},
    SumsUp: {"test_usage_is_of_the_turn"},
    LeavesAModelOut: {"test_the_usage_by_model_adds_up"},
    ChokesOnNonsense: {"test_what_makes_no_sense_is_refused", "test_a_query_may_have_documents"},
    DiesOfNonsense: {"test_what_makes_no_sense_is_refused"},
    MixesItsAgents: {"test_two_agents_do_not_mix"},
    IsOfNoUseOnceInterrupted: INTERRUPTS,
    WorksOnWhenStopped: {"test_a_task_in_the_background_is_told_and_stopped"},
    CallsItAnEnd: INTERRUPTS,
    ListensOnceItSpeaks: {"test_an_interrupt_before_the_first_event_counts"},
    TakesALateInterruptForTheNextTurn: {"test_an_interrupt_that_comes_late_changes_nothing"},
    TakesUpInSilence: {"test_a_message_handed_over_is_answered_once"},
    TakesUpAndForgets: {"test_a_message_handed_over_is_answered_once"},
    SaysItAgain: {"test_a_message_for_an_interrupted_turn_is_the_next"},
    DiesOfSteeringNonsense: {"test_steering_with_what_makes_no_sense_harms_nobody"},
    DoesItFirst: {
        "test_what_is_allowed_is_done",
        "test_what_is_denied_is_not_done",
        "test_who_asks_can_be_interrupted",
    },
    DeniesAll: {"test_what_is_allowed_is_done", "test_a_second_answer_is_harmless"},
    AllowsAll: {"test_what_is_denied_is_not_done"},
    ChangesItsMind: {"test_a_second_answer_is_harmless"},
    BurstsAtASecondAnswer: {"test_a_second_answer_is_harmless", "test_who_asks_can_be_interrupted"},
    WaitsForAnAnswer: {"test_who_asks_can_be_interrupted"},
    ClosesOnce: {"test_a_closed_agent_is_gone", "test_a_close_ends_the_running_turn"},
    SaysThatItIsUnavailable: CLOSES,
    HangsInItsLastTurn: {
        "test_a_close_ends_the_running_turn",
        "test_an_agent_can_be_closed_at_once",
        "test_a_cancelled_close_stops_the_agent",
    },
    LeavesWhatHadNoTurn: {"test_a_cancelled_start_leaves_nothing", "test_an_agent_can_be_closed_at_once"},
    ClosesAtItsLeisure: {"test_a_cancelled_close_stops_the_agent"},
    WatchesForEver: {"test_a_close_wakes_who_watches", "test_a_task_in_the_background_is_told_and_stopped"},
    Forgets: {"test_an_agent_comes_back_with_its_context", "test_a_fork_works_and_knows_what_the_first_one_did"},
    StartsOnce: {"test_an_agent_comes_back_with_its_context"},
    StartsUnusedOnce: {"test_a_cancelled_start_leaves_nothing", "test_an_agent_without_a_turn_comes_back"},
    IsClaimedAsItIs: {"test_an_agent_started_ahead_becomes_another"},
    KeepsItsModel: {"test_a_change_of_model_holds_from_the_next_turn_on"},
    ChangesItsModelForOneTurn: {"test_a_change_of_model_holds_from_the_next_turn_on"},
    KeepsItsMode: {"test_a_change_of_mode_holds_from_the_next_turn_on"},
}
"""The rules that each broken driver breaks; it breaks no other."""


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
async def test_who_breaks_a_rule_fails_its_test_and_no_other(
    variant: type[Good] | type[GoodDriver], tmp_path: Path
) -> None:
    expected = VARIANTS[variant]
    failed: dict[str, Exception] = {}
    for rule in RULES:
        # Who is expected to hang need not be waited for; who is not gets time, however busy the machine is.
        suite = Suite(variant, 0.2 if rule in expected else 30)
        try:
            async with suite.staged(tmp_path / rule) as stage:
                await getattr(suite, rule)(stage)
        except Exception as failure:
            failed[rule] = failure
    assert set(failed) == expected, failed
    silent = {rule: failure for rule, failure in failed.items() if not isinstance(failure, AssertionError)}
    assert not silent, f"these rules do not say what is wrong: {silent}"


def test_every_rule_is_broken_by_somebody() -> None:
    assert set().union(*VARIANTS.values()) == set(RULES)
