"""The memory that one principal's messages take, and the share of the event loop that others keep meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

from portico.core.errors import Exhausted
from portico.core.intake import FREE_BYTES, Intake

KIB = 1024


def test_all_messages_of_a_principal_are_held_within_one_limit() -> None:
    intake = Intake(100 * KIB)
    one, two = intake.open("alice"), intake.open("alice")
    one.grow(FREE_BYTES + 60 * KIB)
    two.grow(FREE_BYTES + 40 * KIB)
    for held in (one, two):
        with pytest.raises(Exhausted) as refused:
            held.grow(1)
        assert (refused.value.code, refused.value.retry_after > 0) == ("too_many_bodies", True)
    intake.open("bob").grow(FREE_BYTES + 100 * KIB)  # has a limit of its own
    intake.open("alice").grow(FREE_BYTES)  # what most messages are is always taken
    one.release()
    two.grow(60 * KIB)


def test_what_is_announced_is_held_before_it_comes() -> None:
    intake = Intake(100 * KIB)
    announced, other = intake.open("alice"), intake.open("alice")
    announced.expect(FREE_BYTES + 100 * KIB)
    with pytest.raises(Exhausted):
        other.grow(FREE_BYTES + 1)
    for _ in range(100):
        announced.grow(KIB)  # counts no second time
    announced.release()
    announced.release()
    other.grow(FREE_BYTES + 100 * KIB)
    other.release()
    assert not intake._taken, "who has sent something is remembered"


@pytest.mark.anyio
async def test_of_all_that_is_worked_on_one_step_is_done_in_each_round() -> None:
    intake, rounds, done = Intake(), 0, list[int]()

    def steps() -> Iterator[None]:
        for _ in range(20):
            done.append(rounds)
            yield

    async with anyio.create_task_group() as tasks:

        async def count() -> None:
            nonlocal rounds
            while True:
                await anyio.lowlevel.checkpoint()
                rounds += 1

        tasks.start_soon(count)
        async with anyio.create_task_group() as working:
            for _ in range(5):
                working.start_soon(intake.do, steps())
        tasks.cancel_scope.cancel()
    # The first step of each is for messages that have no second one.
    assert len(done) == 100
    assert all(done.count(each) <= 2 for each in set(done) if each > done[5]), done
