"""The schedules of a session: whose turn it is to begin what is due, and when a job is due again."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from portico.core.feed import Feed
from portico.core.journal import Journal
from portico.core.life import Life
from portico.core.permissions import Permissions
from portico.core.schedule_event import Schedule
from portico.core.schedules import Schedules, next_time, parsed
from portico.core.wakeup import Broadcast
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.store.samples import record

LONG_AGO = 1.0


def schedules() -> Schedules:
    feed = Feed(Life("s", MemoryStore()), 0)
    return Schedules(Journal(record(), feed, Permissions(0), Broadcast()))


def at(seconds_from_now: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds_from_now, UTC).isoformat()


def given(seconds_from_now: float, **more: Any) -> Schedule:
    members = {"schedule_id": "x", "kind": "cron", "prompt": "p", "next_at": at(seconds_from_now), **more}
    return cast(Schedule, {"type": "schedule", "state": "set", **members})


def test_what_is_due_without_a_process_is_begun_by_the_session() -> None:
    kept = schedules()
    kept.note(given(-1))
    begin, over = kept.due(None)
    assert [each["schedule_id"] for each in begin] == ["x"] and over == []
    assert kept.fire(begin[0])["state"] == "fired" and kept.kept == ()


@pytest.mark.parametrize(
    ("kind", "started", "own"),
    [
        ("cron", LONG_AGO, True),
        ("cron", None, False),
        ("wakeup", LONG_AGO, True),
        ("wakeup", math.inf, False),  # another process than the one that has set it
    ],
)
def test_a_running_agent_begins_what_it_knows_of(kind: str, started: float | None, own: bool) -> None:
    kept = schedules()
    kept.note(given(-1, kind=kind))
    assert (kept.due(started)[0] == []) is own
    assert (kept.next_look(started) > time.time()) is own


def test_a_wakeup_that_the_agent_lets_pass_is_over() -> None:
    kept = schedules()
    kept.note(given(-3600, kind="wakeup"))
    begin, (over,) = kept.due(LONG_AGO)
    assert (begin, over["state"], kept.kept) == ([], "removed", ())


def test_a_removed_one_is_told_apart_when_the_agent_begins_its_turn() -> None:
    kept = schedules()
    kept.note(given(60))
    removed = kept.remove("x")
    assert removed is not None and removed["state"] == "removed" and kept.remove("x") is None
    fired: Schedule = {"type": "schedule", "schedule_id": "", "state": "fired", "kind": "cron", "prompt": ""}
    assert kept.note(fired) is None and kept.silenced() and not kept.silenced()


def test_the_earliest_job_is_the_one_that_has_fired() -> None:
    kept = schedules()
    kept.note(given(60, schedule_id="later"))
    kept.note(given(0, schedule_id="now"))
    fired = kept.note({"type": "schedule", "schedule_id": "", "state": "fired", "kind": "cron", "prompt": ""})
    assert fired is not None and fired["schedule_id"] == "now"
    assert [each["schedule_id"] for each in kept.kept] == ["later"]


@pytest.mark.parametrize(("cron", "period"), [("*/5 * * * *", 300), ("* * * * *", 60)])
def test_a_job_is_due_again_as_late_in_its_period_as_before_and_missed_ones_are_left_out(
    cron: str, period: int
) -> None:
    for missed in (0, 7):
        first = (time.time() // period - missed) * period + 11.5
        job = {"cron": cron, "recurring": True, "next_at": datetime.fromtimestamp(first, UTC).isoformat()}
        following = next_time(job)
        assert following is not None
        assert following > time.time() - 1 and round((following - first) % period, 3) in (0, period)


@pytest.mark.parametrize("next_at", ["", "soon", "9" * 30, None])
def test_what_has_no_time_is_not_kept(next_at: Any) -> None:
    kept = schedules()
    assert kept.note(given(0, next_at=next_at)) is None
    assert kept.kept == () and parsed(next_at) is None


@pytest.mark.parametrize("cron", ["", "bad", "99 * * * *", "* * * * * * *"])
def test_a_cron_expression_that_is_none_is_not_due_again(cron: str) -> None:
    assert next_time({"cron": cron, "recurring": True, "next_at": at(0)}) is None
