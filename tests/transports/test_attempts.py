"""A caller who guesses credentials is slowed down, and nobody else."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from portico.core.errors import Exhausted, Unauthenticated
from portico.core.principal import Callers, Principal
from portico.metrics.metrics import Metrics
from portico.plugins.token_auth.authenticator import TokenAuthenticator
from portico.transports.attempts import (
    ADDRESSES,
    FREE_FAILURES,
    HELD,
    HELD_EACH,
    NAMED,
    PAUSE_SECONDS,
    WINDOW_SECONDS,
    Attempts,
    SlowedCallers,
    address_of,
)
from portico.transports.dialler import Dialler, extension
from tests.support.limits import HANG_SECONDS, NEVER_SECONDS

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def made(metrics: Metrics | None = None) -> tuple[Attempts, Clock]:
    return Attempts(metrics, now=(clock := Clock()), held_seconds=0), clock


async def guess(attempts: Attempts, address: str, times: int = FREE_FAILURES) -> None:
    for _ in range(times):
        assert isinstance(await attempts.failed(address, "no"), Unauthenticated)


async def refused(attempts: Attempts, address: str) -> Exhausted:
    error = await attempts.failed(address, "no")
    assert isinstance(error, Exhausted) and error.code == "too_many_attempts"
    return error


async def test_after_some_failures_an_address_waits_and_then_has_one_more() -> None:
    attempts, clock = made()
    await guess(attempts, "a")
    for _ in range(FREE_FAILURES):
        assert (await refused(attempts, "a")).retry_after == PAUSE_SECONDS, "to try more often makes it no longer"
    await guess(attempts, "b", 1)
    clock.time += PAUSE_SECONDS
    await guess(attempts, "a", 1)
    await refused(attempts, "a")
    clock.time += PAUSE_SECONDS * FREE_FAILURES
    await guess(attempts, "a")


async def test_credentials_that_are_good_are_not_counted_and_do_not_wait() -> None:
    attempts = Attempts(held_seconds=NEVER_SECONDS)
    await guess(attempts, "proxy")
    callers = SlowedCallers(Callers([TokenAuthenticator([("good", Principal("alice"))])]), attempts, "proxy")
    with anyio.fail_after(HANG_SECONDS):
        assert (await callers.principal("good")).name == "alice"
    with pytest.raises(Unauthenticated, match="missing"):
        await callers.principal(None)
    with anyio.move_on_after(0.05) as limit:
        await callers.principal("g00d")
    assert limit.cancelled_caught, "the refusal is held back"


async def test_few_refusals_are_held_back() -> None:
    attempts = Attempts(held_seconds=NEVER_SECONDS)
    addresses = [f"a{number}" for number in range(HELD + 1)]
    for address in addresses:
        await guess(attempts, address)
    async with anyio.create_task_group() as tasks:
        for address in addresses[: HELD // HELD_EACH]:
            for _ in range(HELD_EACH):
                tasks.start_soon(attempts.failed, address, "no")
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(HANG_SECONDS):
                await refused(attempts, address)  # one more of this address
        with anyio.fail_after(HANG_SECONDS):
            await refused(attempts, addresses[-1])  # one more of another
        tasks.cancel_scope.cancel()
    with anyio.move_on_after(0.05) as limit:
        await attempts.failed(addresses[-1], "no")
    assert limit.cancelled_caught, "what went away is held no longer, and there is room again"
    assert not attempts._held


async def test_the_tables_do_not_grow() -> None:
    attempts, _ = made()
    await guess(attempts, "the one")
    for number in range(ADDRESSES * 2):
        await attempts.failed(str(number), "no")
    assert (len(attempts._failures), len(attempts._named), len(attempts._held)) == (ADDRESSES, NAMED, 0)


async def test_the_log_names_each_address_once_a_minute_with_its_number(caplog: pytest.LogCaptureFixture) -> None:
    attempts, clock = made()
    for number in range(NAMED * 2):
        for _ in range(3 if number == 0 else 1):
            await attempts.failed(f"10.0.0.{number}", "no")
    assert caplog.messages == [f"wrong credentials from 10.0.0.{number}" for number in range(NAMED)]
    caplog.clear()
    attempts.tell()
    assert caplog.messages == [], "the minute is not over"
    clock.time += WINDOW_SECONDS
    attempts.tell()
    attempts.tell()
    assert caplog.messages == [
        "wrong credentials from 10.0.0.0: 3 in 60 s",
        f"wrong credentials from other addresses: {NAMED} in 60 s",
    ]
    await attempts.failed("10.0.0.1", "no")
    assert caplog.messages[2:] == ["wrong credentials from 10.0.0.1"]


async def test_failures_are_counted_by_what_they_were_answered_with() -> None:
    metrics = Metrics()
    attempts, _ = made(metrics)
    await guess(attempts, "a")
    await refused(attempts, "a")
    lines = metrics.text("alice", admin=False).decode().splitlines()
    assert f'portico_wrong_credentials_total{{status="401"}} {FREE_FAILURES}.0' in lines
    assert 'portico_wrong_credentials_total{status="429"} 1.0' in lines


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (None, "the Unix socket"),
        (("", 0), "the Unix socket"),
        (("10.0.0.1", 1), "10.0.0.1"),
        (("::ffff:10.0.0.1", 1), "10.0.0.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (("not\nan address", 1), "'not\\nan address'"),
    ],
)
def test_an_address_is_what_one_client_has_for_itself(client: Any, address: str) -> None:
    assert address_of({"type": "http", "client": client}) == address


def test_a_caller_over_ziti_is_its_label() -> None:
    scope = {"type": "http", "client": ("127.0.0.1", 1), "extensions": extension(Dialler("service", "a\nb" * 100))}
    assert address_of(scope).startswith("'a\\nb") and len(address_of(scope)) == 128
